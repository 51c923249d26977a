"""Editors of other distributions: entry points of the group ``jeep.editors``.

An entry point names an ``EditorRecord`` in a module that needs no torch.  It is loaded when the
editor is used or listed; one that cannot be loaded is reported with its distribution, and touches
nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from socket import gaierror
from typing import TYPE_CHECKING, Any

from jeep_core.editors.record import EditorRecord, mistake
from jeep_core.errors import FieldProblem, InvalidHParams, is_passing

if TYPE_CHECKING:
    from jeep_core.editors.base import Editor
    from jeep_core.editors.networks.network import Hypernetwork

GROUP = "jeep.editors"
_NAME = re.compile(r"[a-z][a-z0-9._-]*")


class BrokenEditor(InvalidHParams):
    """An editor of another distribution that cannot be used."""

    def __init__(self, message: str) -> None:
        super().__init__([FieldProblem("/editor", "broken_editor", message)])


@cache
def registered() -> dict[str, list[EntryPoint]]:
    """The entry points by editor name; nothing is imported."""
    found: dict[str, list[EntryPoint]] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: (entry.name, _origin(entry))):
        found.setdefault(entry.name, []).append(entry)
    return found


def plugin(name: str) -> EditorRecord:
    """The record that is registered under a name.

    Raises:
        BrokenEditor: it cannot be loaded, or several distributions register the name.
    """
    entries = registered()[name]
    entry = entries[0]
    if len(entries) > 1:
        both = " and ".join(map(_origin, entries))
        raise BrokenEditor(f"the editor {name!r} is registered by {both}: uninstall all but one")
    if not _NAME.fullmatch(name):
        raise _broken(entry, f"an editor's name must match {_NAME.pattern}")
    try:
        found = entry.load()
    except (Exception, SystemExit) as error:
        if _is_of_this_machine(error):
            raise
        raise _broken(entry, f"{type(error).__name__}: {error}") from error
    if not isinstance(found, EditorRecord):
        raise _broken(entry, f"{entry.value} is no EditorRecord")
    if (wrong := mistake(found)) is not None:
        raise _broken(entry, wrong)
    return found


def create_plugin(name: str) -> Editor:
    """The editor of a plugin.

    Raises:
        BrokenEditor: it cannot be imported or made, or has no ``run``.
    """
    target = plugin(name).editor
    entry = registered()[name][0]
    try:
        editor: Editor = named(target)()
    except (Exception, SystemExit) as error:
        if _is_of_this_machine(error):
            raise
        raise _broken(entry, f"{type(error).__name__}: {error}") from error
    if not callable(getattr(editor, "run", None)):
        raise _broken(entry, f"{target} has no method run")
    return editor


def plugin_network(name: str, target: str) -> Callable[..., Hypernetwork]:
    """The class of a plugin's trained network.

    Raises:
        BrokenEditor: it cannot be imported.
    """
    try:
        found: Callable[..., Hypernetwork] = named(target)
    except (Exception, SystemExit) as error:
        if _is_of_this_machine(error):
            raise
        raise _broken(registered()[name][0], f"{type(error).__name__}: {error}") from error
    return found


def _is_of_this_machine(error: BaseException) -> bool:
    """Whether memory, file descriptors or a disk were not enough; a network is the editor's own."""
    return is_passing(error) and not isinstance(error, (ConnectionError, TimeoutError, gaierror))


def named(target: str) -> Any:
    """The object that ``module:name`` names; its module is imported."""
    module, _, attribute = target.partition(":")
    return getattr(import_module(module), attribute)


def refused(built_in: Collection[str]) -> list[str]:
    """Messages about entry points whose names belong to built-in editors."""
    return [
        f"{_origin(entry)} registers the editor {name!r}, which is built in: not registered"
        for name, entries in registered().items()
        if name in built_in
        for entry in entries
    ]


def _broken(entry: EntryPoint, why: str) -> BrokenEditor:
    return BrokenEditor(f"the editor {entry.name!r} of {_origin(entry)} cannot be used: {why}")


def _origin(entry: EntryPoint) -> str:
    dist = entry.dist
    return f"{dist.name} {dist.version}" if dist else entry.value
