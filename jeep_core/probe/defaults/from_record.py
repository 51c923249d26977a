"""From a probe's record to an editor's hyper-parameters; no torch, as the api needs it too.

The editor's own rule makes them.  Where the probe proposes nothing, they are made of fractions of
the model's depth (`depths`), so that a first edit never fails for want of evidence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from jeep_core.editors import available, hparams_class, needs_choice, preset_hparams, record_of
from jeep_core.editors.networks.hparams import HypernetworkHParams
from jeep_core.editors.networks.records import NetworkRecord, missing_network
from jeep_core.editors.record import NEWTON, OUTPUT_RMS
from jeep_core.errors import FieldProblem, InvalidHParams
from jeep_core.probe.defaults.rule import (
    HIGH_LENGTH,
    HIGH_START,
    LOW_END,
    LOW_LENGTH,
    RULE,
    NoProposal,
    length_of,
    proposed,
)
from jeep_core.spec.exact import as_published
from jeep_core.spec.hparams import AUTO, EditorHParams, for_model, merge, validate_hparams

Source = Literal["given", "preset", "kept probe", "probe now", "depths"]
"""Where hyper-parameters come from, in words for answers and manifests."""


@dataclass(frozen=True)
class Chosen:
    """Hyper-parameters that nobody gave, their source, and what the user should know about it."""

    hparams: EditorHParams
    source: Source
    warnings: tuple[str, ...] = ()

    @property
    def rule(self) -> int | None:
        """The number of the rule that made them; None where a preset or the user gave them."""
        return None if self.source in ("given", "preset") else RULE


def asked_for(
    editor: str, preset: str | None, hparams: Mapping[str, Any] | Literal["auto"]
) -> tuple[bool, Mapping[str, Any]]:
    """Whether ``"auto"`` asks for chosen hyper-parameters, and the changes that are given.

    As the preset it takes ``hparams`` for changes to what is chosen; in their place there are none.

    Raises:
        InvalidHParams: as `check_automatic`.
    """
    automatic = AUTO in (preset, hparams)
    if automatic:
        check_automatic(editor, preset)
    return automatic, {} if isinstance(hparams, str) else hparams


def check_automatic(editor: str, preset: str | None = None) -> None:
    """Refuse ``"auto"``, for a preset or for hyper-parameters, where it cannot be followed.

    Raises:
        InvalidHParams: an unknown editor, one without automatic hyper-parameters, or another
            preset beside them.
    """
    if record_of(editor).automatic is None:
        known = [name for name, record in available()[0].items() if record.automatic is not None]
        message = (
            f"{editor} has no automatic hyper-parameters, which are for {', '.join(known)}: "
            "name a preset, or give hparams as an object"
        )
        pointer = "/preset" if preset == AUTO else "/hparams"
        raise _problem(pointer, "no_automatic", message)
    if preset not in (None, AUTO):
        message = 'a preset and hparams "auto" exclude each other: leave one of them out'
        raise _problem("/preset", "with_auto", message)


def depths(n_layers: int, mlp_size: int, parallel: bool = False) -> dict[str, Any]:
    """A proposal from the model's size alone, in the form of a probe's.

    The low region ends at a third of the depth and has a fifth of the layers, in a parallel model
    without block 0; the high one begins at three quarters and has a twelfth.  (The paper's layers
    of LLaMA-7B: 5 to 10 and 22 to 24 of 32.)  γ and λ are those of a probe.  A model of
    fewer than three layers has no room for two regions: they overlap then, which an editor that
    needs both refuses.
    """
    low_last = max(0, min(int(n_layers * LOW_END), n_layers - 3))
    first = 1 if parallel and n_layers > 3 else 0
    low_last = max(first, low_last)
    low = range(max(first, low_last + 1 - length_of(n_layers, LOW_LENGTH)), low_last + 1)
    length = min(length_of(n_layers, HIGH_LENGTH), max(1, n_layers - 2 - low_last))
    high = max(0, min(int(n_layers * HIGH_START), n_layers - 1 - length))
    weight = float(mlp_size)
    return {
        "learning_rate": 0.5,
        **NEWTON,
        "low": {"layers": list(low), "clamp": 1.5, "moment_weight": weight},
        "high": {
            "layers": list(range(high, high + length)),
            "clamp": 0.25,
            "moment_weight": weight,
        },
    }


def from_record(
    record: Mapping[str, Any],
    editor: str,
    n_layers: int,
    mlp_size: int,
    changes: Mapping[str, Any],
    source: Source,
    *,
    chat: bool = False,
) -> Chosen:
    """The proposal of a probe's record for an editor, else fractions of the depth.

    ``changes`` are laid over it field by field.  ``chat``: the model has a chat template.

    Raises:
        InvalidHParams: an editor without automatic hyper-parameters, wrong changes, a model of too
            few layers.
    """
    try:
        return Chosen(hparams_for(record, editor, n_layers, mlp_size, changes, chat=chat), source)
    except InvalidHParams as error:
        [problem, *_] = error.problems
        if problem.code != "no_proposal":
            raise
        said = problem.message
    guess = depths(n_layers, mlp_size, bool(record.get("parallel")))
    found = _of_editor(guess, record, editor, n_layers, changes, chat)
    warning = (
        f"hyper-parameters are fractions of the model's depth, as a probe proposes none ({said}); "
        "a probe of facts that the model knows may do better: POST /probes"
    )
    return Chosen(found, "depths", (warning,))


def by_depths(
    editor: str,
    n_layers: int,
    mlp_size: int,
    changes: Mapping[str, Any],
    *,
    chat: bool = False,
) -> EditorHParams:
    """Complete hyper-parameters of an editor by fractions of the depth, with changes over them.

    Raises:
        InvalidHParams: an editor without automatic hyper-parameters, wrong changes, a model of too
            few layers.
    """
    check_automatic(editor)
    return _of_editor(depths(n_layers, mlp_size), {}, editor, n_layers, changes, chat)


def hindrance(
    model: str,
    editor: str,
    presets: Mapping[str, Mapping[str, Any]],
    n_layers: int,
    mlp_size: int,
    networks: Callable[[], Sequence[NetworkRecord]],
    *,
    automatic: bool = False,
    chat: bool = False,
) -> str | None:
    """Why an editor cannot make an edit of a model that names no hyper-parameters; None: it can.

    In place of a probe's proposal, layers are at fractions of the depth.

    Args:
        model: its name.
        editor: name of the editor.
        presets: the editor's for this model by name, the default first.
        n_layers: blocks of the model.
        mlp_size: d_ff.
        networks: those that are trained for the model; asked of an editor that needs one.
        automatic: presets are passed over.
        chat: the model has a chat template.
    """
    try:
        if automatic or needs_choice(editor, presets, None, {}):
            found = by_depths(editor, n_layers, mlp_size, {}, chat=chat)
        else:
            found = preset_hparams(editor, presets, None, {}, n_layers, chat=chat)[1]
    except InvalidHParams as error:
        return error.problems[0].message
    if record_of(editor).network is None:
        return None
    assert isinstance(found, HypernetworkHParams)
    records = networks()
    if any(one.editor == editor and one.fits(found) for one in records):
        return None
    return missing_network(model, editor, found, records).message


def hparams_for(
    record: Mapping[str, Any],
    editor: str,
    n_layers: int,
    mlp_size: int,
    changes: Mapping[str, Any] | None = None,
    *,
    chat: bool = False,
) -> EditorHParams:
    """Complete hyper-parameters of an editor from a probe's JSON record, by the rule of today.

    The editor's own record says what it takes of the proposal; the rest keeps its defaults.
    ``changes`` are laid over all of it.  ``chat``: the model has a chat template.

    Raises:
        InvalidHParams: the probe proposes nothing, or nothing for this editor.
    """
    check_automatic(editor)
    try:
        found = proposed(record, mlp_size)
    except NoProposal as error:
        raise _problem("/hparams", "no_proposal", str(error)) from error
    return _of_editor(found, record, editor, n_layers, changes or {}, chat)


def _of_editor(
    found: Mapping[str, Any],
    record: Mapping[str, Any],
    editor: str,
    n_layers: int,
    changes: Mapping[str, Any],
    chat: bool,
) -> EditorHParams:
    """An editor's own of a proposal, with steps by the size of the weights that a record has."""
    known = record_of(editor)
    assert known.automatic is not None
    try:
        chosen = dict(known.automatic(found))
        if known.rate_share is not None and OUTPUT_RMS in record:
            size = record[OUTPUT_RMS][chosen["layers"][0]]
            if size > 0:
                chosen["learning_rate"] = float(f"{known.rate_share * size:.1g}")
    except (KeyError, IndexError, TypeError, ValueError) as error:
        message = f"{editor} cannot use what the probe proposes: {type(error).__name__}: {error}"
        raise _problem("/hparams", "no_proposal", message) from error
    cls = hparams_class(editor)
    values = for_model(cls, merge(as_published(cls, chosen, changes), changes), chat)
    return validate_hparams(cls, values, n_layers)


def _problem(pointer: str, code: str, message: str) -> InvalidHParams:
    return InvalidHParams([FieldProblem(pointer, code, message)])
