"""What decides whether something is removed or begun afresh looks at files by `storage.looking`."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from support import ROOT

ROOMS = (
    "service/store", "service/worker", "jeep_core/storage", "jeep_core/moments",
    "jeep_core/values", "jeep_core/probe", "jeep_core/editors",
)  # fmt: skip
SILENT = {"exists", "glob", "is_dir", "is_file", "rglob"}
"""Methods of paths that take errors for an absence, which ones depends on the version of Python."""
MAY = {
    ("service/store/fetched/cache.py", "walked"): "what it does not see is not removed",
    ("jeep_core/storage/looking.py", "is_dir"): "of an entry that was listed",
    ("service/store/maintenance/sweep.py", "walked"): "what it does not see is swept later",
}


@pytest.mark.parametrize("room", ROOMS)
def test_no_error_is_taken_for_an_absence(room: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in sorted(Path(ROOT, room).rglob("*.py"))
        for line, name in silent_calls(path)
        if (path.relative_to(ROOT).as_posix(), name) not in MAY
    ]
    assert not found, "use jeep_core.storage.looking: " + ", ".join(found)


def silent_calls(path: Path) -> list[tuple[int, str]]:
    """Line and name of every call of such a method, and every walk that passes over errors."""
    return silent_in(path.read_text(encoding="utf-8"))


def silent_in(source: str) -> list[tuple[int, str]]:
    """As `silent_calls`, of a module's text."""
    nodes = list(ast.walk(ast.parse(source)))
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    told = {
        id(one.func)
        for one in calls
        for k in one.keywords
        if k.arg in ("onerror", "on_error") and not is_none(k.value)
    }
    found = [
        (node.lineno, node.func.attr)
        for node in calls
        if isinstance(node.func, ast.Attribute)
        and node.func.attr in SILENT
        and not of_module(node.func, "os")
    ]
    return found + [
        (node.lineno, node.attr)
        for node in nodes  # also where it is given to somebody who calls it
        if isinstance(node, ast.Attribute)
        and node.attr == "walk"
        and not of_module(node, "ast")
        and id(node) not in told
    ] + [
        (node.lineno, node.id)
        for node in nodes
        if isinstance(node, ast.Name) and node.id == "walked" and id(node) not in told
    ]  # fmt: skip


def is_none(node: ast.expr) -> bool:
    """Whether it is the word ``None``."""
    return isinstance(node, ast.Constant) and node.value is None


def of_module(node: ast.Attribute, module: str) -> bool:
    """Whether it is an attribute of a module."""
    return isinstance(node.value, ast.Name) and node.value.id == module


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("path.exists()", "exists"), ("os.walk(root)", "walk"), ("map(os.walk, roots)", "walk"),
        ("root.walk()", "walk"), ("os.walk(root, onerror=tell)", None),
        ("os.walk(root, onerror=None)", "walk"), ("walked(root, onerror=None)", "walked"),
        ("map(walked, roots)", "walked"), ("walked(root, onerror=tell)", None),
        ("root.walk(on_error=tell)", None), ("ast.walk(tree)", None), ("present(path)", None),
    ],
)  # fmt: skip
def test_what_is_silent(source: str, name: str | None) -> None:
    assert silent_in(source) == ([(1, name)] if name else [])


def test_every_exception_is_needed() -> None:
    for where, name in MAY:
        assert name in {called for _, called in silent_calls(Path(ROOT, where))}
