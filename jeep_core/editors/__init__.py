"""The editors by name.  Nothing is imported before an editor is used."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING, Any

from jeep_core.errors import FieldProblem, InvalidHParams
from jeep_core.hparams import (
    AlphaEditHParams,
    EditorHParams,
    JeepHParams,
    MemitHParams,
    PmetHParams,
    RomeHParams,
    merge,
    validate_hparams,
)
from jeep_core.hparams_gradient import FtWdHParams, MalmenHParams, MendHParams

if TYPE_CHECKING:
    from jeep_core.editors.base import Editor

EDITORS: dict[str, tuple[str, type[EditorHParams]]] = {
    "jeep": ("jeep_core.editors.jeep:Jeep", JeepHParams),
    "memit": ("jeep_core.editors.memit:Memit", MemitHParams),
    "pmet": ("jeep_core.editors.pmet:Pmet", PmetHParams),
    "rome": ("jeep_core.editors.rome:Rome", RomeHParams),
    "alphaedit": ("jeep_core.editors.alphaedit:AlphaEdit", AlphaEditHParams),
    "ft-wd": ("jeep_core.editors.ft_wd:FtWd", FtWdHParams),
    "mend": ("jeep_core.editors.mend:Mend", MendHParams),
    "malmen": ("jeep_core.editors.malmen:Malmen", MalmenHParams),
}


def hparams_class(name: str) -> type[EditorHParams]:
    """The hyper-parameter class of an editor, without importing the editor.

    Raises:
        InvalidHParams: no editor has this name.
    """
    if name not in EDITORS:
        close = get_close_matches(name, EDITORS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(EDITORS)}"
        raise InvalidHParams(
            [FieldProblem("/editor", "unknown_editor", f"no editor {name!r}; {hint}")]
        )
    return EDITORS[name][1]


def preset_hparams(
    editor: str,
    presets: Mapping[str, Mapping[str, Any]],
    preset: str | None,
    changes: Mapping[str, Any],
    n_layers: int,
) -> tuple[str | None, EditorHParams]:
    """The preset that is meant and complete hyper-parameters: its own with ``changes`` over them.

    Args:
        editor: name of the editor.
        presets: the editor's presets for this model by name, the default first.
        preset: one of them, or None: the default; without any, ``changes`` must be complete.
        changes: laid over the preset field by field.
        n_layers: number of the model's layers.

    Raises:
        InvalidHParams: unknown editor or preset, values out of range, layers that do not exist.
    """
    cls = hparams_class(editor)
    if preset is not None and preset not in presets:
        known = ", ".join(presets) or "none"
        message = f"no preset {preset!r} of {editor} for this model; known: {known}"
        raise InvalidHParams([FieldProblem("/preset", "unknown_preset", message)])
    chosen = preset or next(iter(presets), None)
    if chosen is None and not changes:
        message = f"{editor} has no preset for this model: give all hyper-parameters"
        raise InvalidHParams([FieldProblem("/hparams", "no_preset", message)])
    base = presets[chosen] if chosen else {}
    return chosen, validate_hparams(cls, merge(base, changes), n_layers)


def create(name: str) -> Editor:
    """The editor of this name."""
    hparams_class(name)
    module, _, attribute = EDITORS[name][0].partition(":")
    editor: Editor = getattr(import_module(module), attribute)()
    return editor
