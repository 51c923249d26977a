"""From a probe's record to hyper-parameters of an editor; no torch, as the api needs it too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jeep_core.editors import available, hparams_class, record_of
from jeep_core.errors import FieldProblem, InvalidHParams
from jeep_core.spec.hparams import EditorHParams, for_model, validate_hparams

AUTO = "auto"


def check_automatic(editor: str, preset: str | None = None) -> None:
    """Refuse ``hparams: "auto"`` where it cannot be followed.

    Raises:
        InvalidHParams: an unknown editor, one without automatic hyper-parameters, or a preset
            beside them.
    """
    if record_of(editor).automatic is None:
        known = [name for name, record in available()[0].items() if record.automatic is not None]
        message = (
            f"{editor} has no automatic hyper-parameters, which are for {', '.join(known)}: "
            "name a preset, or give hparams as an object"
        )
        raise _problem("/hparams", "no_automatic", message)
    if preset is not None:
        message = 'a preset and hparams "auto" exclude each other: leave one of them out'
        raise _problem("/preset", "with_auto", message)


def hparams_for(
    record: Mapping[str, Any], editor: str, n_layers: int, chat: bool = False
) -> EditorHParams:
    """Complete hyper-parameters of an editor from a probe's JSON record.

    The editor's own record says what it takes of the proposal; the rest keeps its defaults.
    ``chat``: the model has a chat template.

    Raises:
        InvalidHParams: the probe proposes nothing, or nothing for this editor.
    """
    check_automatic(editor)
    found: dict[str, Any] | None = record.get("hparams")
    if found is None:
        why = record.get("why_no_proposal") or "the probe proposes no layers"
        raise _problem("/hparams", "no_proposal", str(why))
    rule = record_of(editor).automatic
    assert rule is not None
    try:
        chosen = rule(found)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        message = f"{editor} cannot use what the probe proposes: {type(error).__name__}: {error}"
        raise _problem("/hparams", "no_proposal", message) from error
    cls = hparams_class(editor)
    return validate_hparams(cls, for_model(cls, chosen, chat), n_layers)


def _problem(pointer: str, code: str, message: str) -> InvalidHParams:
    return InvalidHParams([FieldProblem(pointer, code, message)])
