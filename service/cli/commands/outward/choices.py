"""Checks of the choices of ``jeep export``: refused before any work where they make no sense."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import typer

_INSTEAD = {
    "format": "--format",
    "version": "the argument VERSION",
    "idempotency_key": "the Python client, which takes a key",
}
"""What ``--option`` cannot set, being no choice of a format, and what sets it."""


def flags_given(context: typer.Context) -> dict[str, str]:
    """The flags of what the command line names, by the names of the parameters."""
    return {
        one.name: one.opts[0]
        for one in context.command.params
        if one.name and getattr(context.get_parameter_source(one.name), "name", "") == "COMMANDLINE"
    }


def check_together(given: dict[str, str], format: str | None, push: str | None) -> None:
    """Refuse options that would have no effect beside one another."""
    if push is not None and ("file" in given or "no_wait" in given):
        raise typer.BadParameter(
            "needs the files: leave out FILE and --no-wait", param_hint="--push"
        )
    if "file" in given:
        more = given.keys() - {"version", "file", "format", "url"}
        for name in sorted(more):
            raise typer.BadParameter(
                "has no effect on FILE, which is written as by jeep versions export: leave out "
                "one of both (a folder is named by --out)",
                param_hint=given[name],
            )
    if "no_wait" in given:
        for name in ("folder", "strengthen"):
            if name in given:
                raise typer.BadParameter(
                    "needs the end of the export: leave out --no-wait", param_hint=given[name]
                )
    if "public" in given and push is None:
        raise typer.BadParameter(
            "is about the repository that --push names: give that too", param_hint="--public"
        )
    if "strengthen" in given and format != "gguf":
        raise typer.BadParameter(
            "edits facts that quantised files lose: give --format gguf too, or leave it out",
            param_hint="--strengthen",
        )


def check_folder(folder: Path) -> None:
    """Refuse a folder for files that cannot be made or written, before minutes of work."""
    there = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not there.is_dir():
        raise typer.BadParameter(
            f"{there} is a file: name a folder, which may be new", param_hint="--out"
        )
    if not os.access(there, os.W_OK | os.X_OK):
        raise typer.BadParameter(f"{there} cannot be written to", param_hint="--out")


def all_options(options: list[str], flags: dict[str, Any]) -> dict[str, Any]:
    """The options of a format: ``flags``, which have flags of their own, and ``NAME=VALUE``.

    The latter are of formats that the command does not know; a value is JSON where it can be, else
    text.  Of ``flags`` those that are None were not given.
    """
    found: dict[str, Any] = {}
    for one in options:
        name, equals, value = one.partition("=")
        wrong = None
        if not (name and equals):
            wrong = f"{one!r} is not NAME=VALUE"
        elif name in _INSTEAD:
            wrong = f"{name!r} is no option of a format: use {_INSTEAD[name]}"
        elif name in found or flags.get(name) is not None:
            wrong = f"{name!r} is given twice"
        if wrong is not None:
            raise typer.BadParameter(wrong, param_hint="--option")
        try:
            found[name] = json.loads(value)
        except (ValueError, RecursionError):
            found[name] = value
    every = {**flags, **found}
    for name, value in every.items():
        _check_value(name, value, "--option" if name in found else "--" + name.replace("_", "-"))
    return every


def _check_value(name: str, value: Any, where: str) -> None:
    """Refuse what no request can hold: numbers that are not finite, text that is not UTF-8."""
    try:
        json.dumps({name: value}, allow_nan=False, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise typer.BadParameter(f"{name}: this is no UTF-8 text", param_hint=where) from None
    except ValueError:
        raise typer.BadParameter(f"{name}: give a finite number", param_hint=where) from None
