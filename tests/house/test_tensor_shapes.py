"""Docstrings of public functions on tensors, and of classes that hold some, say the shapes."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import ROOT

LIBRARY = ROOT / "jeep_core"
SHAPE = re.compile(r"\([^()]*,[^()]*\)|\bscalar\b|\bany shape\b")
"""A tuple of sizes such as ``(m, d)`` or ``(n,)``, or one of two words."""
ALIAS = re.compile(r"^(\w+) = .*\btorch\.Tensor\b", re.MULTILINE)


def tensor_types() -> re.Pattern[str]:
    """What annotations call a tensor: torch's own, or a name that the library gave to several."""
    names = {name for path in LIBRARY.rglob("*.py") for name in ALIAS.findall(path.read_text())}
    return re.compile(r"\b(torch\.Tensor|" + "|".join(sorted(names)) + r")\b")


TENSOR = tensor_types()


def public_functions(
    node: ast.Module | ast.ClassDef, path: str
) -> Iterator[tuple[str, ast.FunctionDef]]:
    """Public functions of a module with their names, and the methods of its public classes."""
    for inner in node.body:
        if isinstance(inner, ast.FunctionDef | ast.ClassDef) and not inner.name.startswith("_"):
            name = f"{path}.{inner.name}"
            if isinstance(inner, ast.FunctionDef):
                yield name, inner
            else:
                yield from public_functions(inner, name)


def on_tensors(function: ast.FunctionDef) -> bool:
    arguments = function.args.posonlyargs + function.args.args + function.args.kwonlyargs
    written = [argument.annotation for argument in arguments] + [function.returns]
    return any(TENSOR.search(ast.unparse(part)) for part in written if part is not None)


def tensor_functions(path: Path) -> list[tuple[str, ast.FunctionDef]]:
    module = path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
    found = public_functions(ast.parse(path.read_text()), module)
    return [(name, function) for name, function in found if on_tensors(function)]


def tensor_classes(path: Path) -> list[tuple[str, ast.ClassDef]]:
    """Public classes of a module whose fields, as those of a dataclass, are tensors."""
    return [
        (f"{path.stem}.{node.name}", node)
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
        if any(
            isinstance(part, ast.AnnAssign)
            and not ast.unparse(part.target).startswith("_")
            and TENSOR.search(ast.unparse(part.annotation))
            for part in node.body
        )
    ]


CLASSES = [pair for path in sorted(LIBRARY.rglob("*.py")) for pair in tensor_classes(path)]
FOUND = [pair for path in sorted(LIBRARY.rglob("*.py")) for pair in tensor_functions(path)]


def test_functions_on_tensors_are_found() -> None:
    assert len(FOUND) > 60
    assert {
        "jeep_core.updates.least_squares.solve_update",
        "jeep_core.values.keys.keys_and_states",
    } <= {name for name, _ in FOUND}


@pytest.mark.parametrize(("name", "function"), FOUND, ids=[name for name, _ in FOUND])
def test_a_public_function_on_tensors_says_their_shapes(
    name: str, function: ast.FunctionDef
) -> None:
    said = ast.get_docstring(function) or ""
    assert SHAPE.search(said), f"{name}: say the shapes in its docstring, as in (m, d)"


@pytest.mark.parametrize(("name", "holder"), CLASSES, ids=[name for name, _ in CLASSES])
def test_a_public_class_that_holds_tensors_says_their_shapes(
    name: str, holder: ast.ClassDef
) -> None:
    said = ast.get_docstring(holder) or ""
    assert SHAPE.search(said), f"{name}: say the shapes of its fields in its docstring"
