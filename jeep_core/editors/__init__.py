"""The editors by name, built in or of other distributions; nothing is imported before its use.

Each editor is one folder: its record (``__init__``), its hyper-parameters (``hparams``, no torch)
and the editor itself (``editor``).  ``networks`` holds what editors with a trained network share,
``base`` what all of them may use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from jeep_core.editors.plugins import (
    BrokenEditor,
    create_plugin,
    named,
    plugin,
    plugin_network,
    refused,
    registered,
)
from jeep_core.editors.record import EditorRecord
from jeep_core.errors import FieldProblem, InvalidHParams
from jeep_core.spec.exact import as_published, preset_for
from jeep_core.spec.hparams import EditorHParams, for_model, merge, validate_hparams
from jeep_core.spec.naming import known_names

if TYPE_CHECKING:
    from jeep_core.editors.base import Editor
    from jeep_core.editors.networks.network import Hypernetwork

__all__ = [
    "AUTO_EDITOR",
    "DEFAULT_EDITOR",
    "EDITORS",
    "BrokenEditor",
    "EditorPlugin",
    "EditorRecord",
    "available",
    "check_editor",
    "create",
    "hparams_class",
    "in_order",
    "needs_choice",
    "network_class",
    "preset_hparams",
    "record_of",
    "with_network",
]

EDITORS: Mapping[str, str] = {
    "jeep": "jeep_core.editors.jeep",
    "memit": "jeep_core.editors.memit",
    "pmet": "jeep_core.editors.pmet",
    "rome": "jeep_core.editors.rome",
    "alphaedit": "jeep_core.editors.alphaedit",
    "ft-wd": "jeep_core.editors.ft_wd",
    "mend": "jeep_core.editors.mend",
    "malmen": "jeep_core.editors.malmen",
    "ultraedit": "jeep_core.editors.ultraedit",
    "locft": "jeep_core.editors.locft",
    "crispedit": "jeep_core.editors.crispedit",
}
"""The built-in editors: packages with a ``record``."""
DEFAULT_EDITOR = "jeep"
"""The editor that is meant where none is named: here, in the api and in the commands."""
AUTO_EDITOR = "auto"
"""Stands for no editor: an edit lets one be chosen by it (`jeep_core.probe.defaults`)."""
EditorPlugin = EditorRecord
"""The name of records in version 0.1, which plugins may still use."""


def record_of(name: str) -> EditorRecord:
    """The record of an editor, without importing the editor.

    Raises:
        InvalidHParams: no editor has this name, or it is a plugin that cannot be loaded.
    """
    if name == AUTO_EDITOR:
        message = f'only an edit and its plan take "auto"; name one of {", ".join(EDITORS)}'
        raise InvalidHParams([FieldProblem("/editor", "unknown_editor", message)])
    if name in EDITORS:
        found: EditorRecord = import_module(EDITORS[name]).record
        return found
    if name in registered():
        return plugin(name)
    raise _unknown(name)


def check_editor(name: str) -> None:
    """Refuse a name that an edit cannot have: no editor's, and not ``auto``.

    Raises:
        InvalidHParams: there is no such editor; ``auto`` is among those that are listed.
    """
    if name != AUTO_EDITOR and name not in EDITORS and name not in registered():
        raise _unknown(name, AUTO_EDITOR)


def _unknown(name: str, *more: str) -> InvalidHParams:
    names = [*EDITORS, *(other for other in registered() if other not in EDITORS), *more]
    message = f"no editor {name!r}; {known_names(name, names)}"
    return InvalidHParams([FieldProblem("/editor", "unknown_editor", message)])


def hparams_class(name: str) -> type[EditorHParams]:
    """The hyper-parameter class of an editor, without importing the editor.

    Raises:
        InvalidHParams: as `record_of`.
    """
    return record_of(name).hparams


def available() -> tuple[dict[str, EditorRecord], list[str]]:
    """The records of the usable editors, and a message for each of the others."""
    found = {name: record_of(name) for name in EDITORS}
    taken = {*EDITORS, AUTO_EDITOR}
    problems = refused(taken)
    for name in registered():
        if name not in taken:
            try:
                found[name] = plugin(name)
            except BrokenEditor as error:
                problems.append(error.problems[0].message)
    return found, problems


def hparam_names() -> set[str]:
    """The names of the hyper-parameters of all usable editors."""
    return {name for found in available()[0].values() for name in found.hparams.model_fields}


def in_order() -> list[str]:
    """The usable editors in the order of tables and legends, the paper's."""
    found, _ = available()
    return sorted(found, key=lambda name: (found[name].order, name))


def with_network() -> list[str]:
    """The usable editors that need a trained network."""
    return [name for name, found in available()[0].items() if found.network is not None]


def needs_choice(
    editor: str,
    presets: Mapping[str, Mapping[str, Any]],
    preset: str | None,
    changes: Mapping[str, Any],
) -> bool:
    """Whether something must choose hyper-parameters: there is no preset, and some are missing.

    Raises:
        InvalidHParams: as `record_of`.
    """
    record = record_of(editor)
    if record.automatic is None or preset is not None or presets:
        return False
    try:
        record.hparams.model_validate(changes)
    except ValidationError as error:
        return any(one["type"] == "missing" for one in error.errors(include_url=False))
    return False


def preset_hparams(
    editor: str,
    presets: Mapping[str, Mapping[str, Any]],
    preset: str | None,
    changes: Mapping[str, Any],
    n_layers: int,
    chat: bool = False,
) -> tuple[str | None, EditorHParams]:
    """The preset that is meant and complete hyper-parameters: its own with ``changes`` over them.

    Args:
        editor: name of the editor.
        presets: the editor's presets for this model by name, the default first.
        preset: one of them, or None: the default, or the paper's if ``changes`` ask for ``exact``;
            without any, ``changes`` must be complete.
        changes: laid over the preset field by field.
        n_layers: number of the model's layers.
        chat: whether the model has a chat template; then facts are edited for both ways of asking
            unless something else is given.

    Raises:
        InvalidHParams: unknown editor or preset, values out of range, layers that do not exist.
    """
    record = record_of(editor)
    cls = record.hparams
    if preset is not None and preset not in presets:
        message = f"no preset {preset!r} of {editor} for this model; {known_names(preset, presets)}"
        raise InvalidHParams([FieldProblem("/preset", "unknown_preset", message)])
    chosen = preset or preset_for(presets, changes)
    needed = [name for name, field in cls.model_fields.items() if field.is_required()]
    missing = [name for name in needed if name not in changes]
    if chosen is None and missing:
        message = f"{editor} has no preset for this model. {_ways_out(editor, record, missing)}"
        raise InvalidHParams([FieldProblem("/hparams", "no_preset", message)])
    base = as_published(cls, presets[chosen], changes) if chosen else {}
    return chosen, validate_hparams(cls, for_model(cls, merge(base, changes), chat), n_layers)


def _ways_out(editor: str, record: EditorRecord, missing: list[str]) -> str:
    """Advice where an editor has no preset for a model, and nothing may choose for it."""
    named = " and ".join(missing)
    ways = [f"give its hyper-parameters in hparams ({named} cannot be left out)"]
    if record.automatic is not None:
        ways.insert(0, "take the hyper-parameters that a probe proposes (jeep probe, POST /probes)")
    if record.search is not None:
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
    record = record_of(name)
    if name not in EDITORS:
        return create_plugin(name)
    editor: Editor = named(record.editor)()
    return editor


def network_class(name: str) -> Callable[..., Hypernetwork]:
    """Make a network of an editor, untrained, from its ``NetworkSpec`` and a seed.

    Raises:
        InvalidHParams: as `create`, or the editor has no network.
    """
    target = record_of(name).network
    if target is None:
        message = f"{name} has no trained network; those with one: {', '.join(with_network())}"
        raise InvalidHParams([FieldProblem("/editor", "no_network", message)])
    if name not in EDITORS:
        return plugin_network(name, target)
    found: Callable[..., Hypernetwork] = named(target)
    return found
