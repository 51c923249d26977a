"""No file outside an editor's folder names its method, but for the default and the paper's data."""

from __future__ import annotations

import ast
from pathlib import Path

from support import ROOT

from jeep_core.editors import DEFAULT_EDITOR, EDITORS

NAMING = {
    "jeep_core/editors/__init__.py": "the registry and the default",
    "jeep_core/reproduce/paper.py": "the paper's own figures",
    "jeep_core/suites/formats/rome.py": "a format of suites, named after those who made it",
}
COMMAND = {DEFAULT_EDITOR}
"""The project and its command have the name of the default editor."""


def trees() -> dict[str, ast.Module]:
    """The modules outside the editors' folders, by path."""
    paths: list[Path] = []
    for package in ("jeep_core", "service"):
        paths += (ROOT / package).rglob("*.py")
    names = {path.relative_to(ROOT).as_posix(): path for path in sorted(paths)}
    return {
        name: ast.parse(path.read_text())
        for name, path in names.items()
        if not name.startswith("jeep_core/editors/") or name in NAMING
    }


def methods_in(tree: ast.Module) -> set[str]:
    """The built-in editors whose names are texts of a module."""
    constants = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return {value for value in constants if value in EDITORS}


def test_methods_are_named_only_where_that_is_said_here() -> None:
    found = {name: methods_in(tree) for name, tree in trees().items()}
    naming = {name for name, methods in found.items() if methods - COMMAND}
    assert naming == set(NAMING), "ask the record of an editor instead"


def test_the_default_editor_has_one_name() -> None:
    """No argument, field or option ``editor`` has a text of its own for a default."""
    for name, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.arguments):
                plain = node.posonlyargs + node.args
                pairs = [*zip(reversed(plain), reversed(node.defaults), strict=False)]
                pairs += [
                    (a, d) for a, d in zip(node.kwonlyargs, node.kw_defaults, strict=True) if d
                ]
                given = [default for argument, default in pairs if argument.arg == "editor"]
            elif isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "editor":
                given = [node.value] if node.value else []
            else:
                continue
            texts = [
                ast.unparse(one) for one in given if methods_in(ast.Module([ast.Expr(one)], []))
            ]
            assert not texts, f"{name}: DEFAULT_EDITOR instead of {texts}"
