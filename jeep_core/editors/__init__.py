"""The editors by name.  Nothing is imported before an editor is used."""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING

from jeep_core.errors import FieldProblem, InvalidHParams
from jeep_core.hparams import EditorHParams, JeepHParams, MemitHParams
from jeep_core.hparams_gradient import FtWdHParams, MalmenHParams, MendHParams

if TYPE_CHECKING:
    from jeep_core.editors.base import Editor

EDITORS: dict[str, tuple[str, type[EditorHParams]]] = {
    "jeep": ("jeep_core.editors.jeep:Jeep", JeepHParams),
    "memit": ("jeep_core.editors.memit:Memit", MemitHParams),
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


def create(name: str) -> Editor:
    """The editor of this name."""
    hparams_class(name)
    module, _, attribute = EDITORS[name][0].partition(":")
    editor: Editor = getattr(import_module(module), attribute)()
    return editor
