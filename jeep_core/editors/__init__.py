"""The editors by name, built in or of other distributions.  Nothing is imported before its use."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from jeep_core.editors.plugins import (
    BrokenEditor,
    EditorPlugin,
    create_plugin,
    plugin,
    refused,
    registered,
)
from jeep_core.errors import FieldProblem, InvalidHParams
from jeep_core.spec.gradient_hparams import FtWdHParams, MalmenHParams, MendHParams
from jeep_core.spec.hparams import (
    AUTOMATIC,
    AlphaEditHParams,
    EditorHParams,
    JeepHParams,
    MemitHParams,
    OptimisedEditorHParams,
    PmetHParams,
    RomeHParams,
    merge,
    validate_hparams,
)
from jeep_core.spec.naming import known_names

if TYPE_CHECKING:
    from jeep_core.editors.base import Editor

__all__ = [
    "EDITORS",
    "BrokenEditor",
    "EditorPlugin",
    "available",
    "create",
    "hparams_class",
    "preset_hparams",
]

EDITORS: dict[str, tuple[str, type[EditorHParams]]] = {
    "jeep": ("jeep_core.editors.jeep.editor:Jeep", JeepHParams),
    "memit": ("jeep_core.editors.memit.editor:Memit", MemitHParams),
    "pmet": ("jeep_core.editors.pmet.editor:Pmet", PmetHParams),
    "rome": ("jeep_core.editors.rome.editor:Rome", RomeHParams),
    "alphaedit": ("jeep_core.editors.alphaedit.editor:AlphaEdit", AlphaEditHParams),
    "ft-wd": ("jeep_core.editors.ft_wd.editor:FtWd", FtWdHParams),
    "mend": ("jeep_core.editors.mend.editor:Mend", MendHParams),
    "malmen": ("jeep_core.editors.malmen.editor:Malmen", MalmenHParams),
}


def hparams_class(name: str) -> type[EditorHParams]:
    """The hyper-parameter class of an editor, without importing the editor.

    Raises:
        InvalidHParams: no editor has this name, or it is a plugin that cannot be loaded.
    """
    if name in EDITORS:
        return EDITORS[name][1]
    if name in registered():
        return plugin(name).hparams
    names = [*EDITORS, *(other for other in registered() if other not in EDITORS)]
    message = f"no editor {name!r}; {known_names(name, names)}"
    raise InvalidHParams([FieldProblem("/editor", "unknown_editor", message)])


def available() -> tuple[dict[str, type[EditorHParams]], list[str]]:
    """The usable editors with their classes, and a message for each of the others."""
    found = {name: cls for name, (_, cls) in EDITORS.items()}
    problems = refused(EDITORS)
    for name in registered():
        if name not in EDITORS:
            try:
                found[name] = plugin(name).hparams
            except BrokenEditor as error:
                problems.append(error.problems[0].message)
    return found, problems


def preset_hparams(
    editor: str,
    presets: Mapping[str, Mapping[str, Any]],
    preset: str | None,
    changes: Mapping[str, Any],
    n_layers: int,
    auto: bool = False,
) -> tuple[str | None, EditorHParams]:
    """The preset that is meant and complete hyper-parameters: its own with ``changes`` over them.

    Args:
        editor: name of the editor.
        presets: the editor's presets for this model by name, the default first.
        preset: one of them, or None: the default; without any, ``changes`` must be complete.
        changes: laid over the preset field by field.
        n_layers: number of the model's layers.
        auto: whether the caller also accepts ``"auto"`` in place of hyper-parameters.

    Raises:
        InvalidHParams: unknown editor or preset, values out of range, layers that do not exist.
    """
    cls = hparams_class(editor)
    if preset is not None and preset not in presets:
        message = f"no preset {preset!r} of {editor} for this model; {known_names(preset, presets)}"
        raise InvalidHParams([FieldProblem("/preset", "unknown_preset", message)])
    chosen = preset or next(iter(presets), None)
    needed = [name for name, field in cls.model_fields.items() if field.is_required()]
    missing = [name for name in needed if name not in changes]
    if chosen is None and missing:
        message = f"{editor} has no preset for this model. {_ways_out(editor, cls, missing, auto)}"
        raise InvalidHParams([FieldProblem("/hparams", "no_preset", message)])
    base = presets[chosen] if chosen else {}
    return chosen, validate_hparams(cls, merge(base, changes), n_layers)


def _ways_out(editor: str, cls: type[EditorHParams], missing: list[str], auto: bool) -> str:
    """Advice where an editor has no preset for a model."""
    named = " and ".join(missing)
    ways = [f"give its hyper-parameters in hparams ({named} cannot be left out)"]
    if editor in AUTOMATIC and auto:
        ways.insert(0, 'send "hparams": "auto", which takes layers that a probe proposes')
    elif editor in AUTOMATIC:
        ways.insert(0, "take the hyper-parameters that a probe proposes (jeep probe, POST /probes)")
    if issubclass(cls, OptimisedEditorHParams) or editor == "ft-wd":
        ways.append(
            f"or have `jeep tune --editor {editor} --suite FILE --out presets/NAME.yaml` make a "
            "preset and start the worker with --presets presets (JEEP_PRESETS)"
        )
    said = ", ".join(ways)
    return said[0].upper() + said[1:]


def create(name: str) -> Editor:
    """The editor of this name.

    Raises:
        InvalidHParams: no editor has this name, or it is a plugin that cannot be loaded.
    """
    hparams_class(name)
    if name not in EDITORS:
        return create_plugin(name)
    module, _, attribute = EDITORS[name][0].partition(":")
    editor: Editor = getattr(import_module(module), attribute)()
    return editor
