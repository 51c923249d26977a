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
    ("service/store/fetched/cache.py", "rglob"): "what it does not see is not removed",
    ("service/store/maintenance/room.py", "is_dir"): "of an entry that was listed",
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
    """Line and name of every call of such a method."""
    return [
        (node.lineno, node.func.attr)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in SILENT
        and not (isinstance(node.func.value, ast.Name) and node.func.value.id == "os")
    ]


def test_every_exception_is_needed() -> None:
    for where, name in MAY:
        assert name in {called for _, called in silent_calls(Path(ROOT, where))}
