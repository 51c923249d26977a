"""The arrangement of the code itself: few modules at the top, rooms that are not crowded."""

from __future__ import annotations

import ast
import re
import tomllib
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import pytest
from support import ROOT

import jeep_core

PACKAGES = ("jeep_core", "service")
HOUSES = (*PACKAGES, "tools", "bench", "tests/support")
AT_THE_TOP = 4
IN_A_ROOM = 16
LINES = 400
LINES_OF_TESTS = 450


def rooms() -> list[Path]:
    """Every folder of modules, the houses included."""
    found = {path.parent for house in HOUSES for path in (ROOT / house).rglob("*.py")}
    return sorted(found)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def modules_of(folder: Path) -> list[str]:
    """The modules directly in a folder, ``__init__`` included."""
    return sorted(path.name for path in folder.glob("*.py"))


def test_the_rooms_are_found() -> None:
    assert len(rooms()) > 40
    assert all((ROOT / house) in rooms() for house in HOUSES)


def folders_of_tests() -> list[Path]:
    """Every folder of test files; they are no packages, so none says what belongs in it."""
    return sorted({path.parent for path in (ROOT / "tests").rglob("test_*.py")})


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_has_at_most_four_modules_beside_its_rooms(package: str) -> None:
    modules = modules_of(ROOT / package)
    assert len(modules) <= AT_THE_TOP, f"move some into a room: {modules}"


@pytest.mark.parametrize("package", PACKAGES)
def test_the_architecture_names_every_room(package: str) -> None:
    page = (ROOT / "docs/architecture.md").read_text()
    homes = [
        f"{path.name}/" for path in (ROOT / package).iterdir() if (path / "__init__.py").exists()
    ]
    homes += [path.name for path in (ROOT / package).glob("[a-z]*.py")]
    assert not [home for home in homes if f"`{home}`" not in page]


@pytest.mark.parametrize("folder", [*rooms(), *folders_of_tests()], ids=name_of)
def test_no_room_has_more_than_sixteen_modules(folder: Path) -> None:
    modules = modules_of(folder)
    assert len(modules) <= IN_A_ROOM, f"make a room in {name_of(folder)}: {modules}"


@pytest.mark.parametrize("folder", rooms(), ids=name_of)
def test_a_room_says_what_belongs_in_it(folder: Path) -> None:
    file = folder / "__init__.py"
    assert file.exists(), f"{name_of(file)} is missing"
    said = ast.get_docstring(ast.parse(file.read_text()))
    assert said, f"{name_of(file)} has no docstring"


@pytest.mark.parametrize(
    ("house", "most"), [*((house, LINES) for house in HOUSES), ("tests", LINES_OF_TESTS)]
)
def test_no_module_is_too_long(house: str, most: int) -> None:
    lines = {
        name_of(path): len(path.read_text().splitlines()) for path in (ROOT / house).rglob("*.py")
    }
    long = {name: count for name, count in lines.items() if count > most}
    assert not long, f"split what has more than {most} lines: {long}"


@pytest.mark.parametrize("package", PACKAGES)
def test_folders_of_tests_mirror_the_rooms(package: str) -> None:
    """A folder of tests is named like a room, or like a module at the top."""
    homes = {name_of(folder) for folder in rooms()} | {
        name_of(path.with_suffix("")) for path in (ROOT / package).glob("*.py")
    }
    folders = {path.parent for path in (ROOT / "tests" / package).rglob("test_*.py")}
    homeless = sorted({name_of(folder).removeprefix("tests/") for folder in folders} - homes)
    assert not homeless


def test_names_of_test_files_are_unique() -> None:
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py") if "gpu" not in path.parts]
    assert sorted(names) == sorted(set(names))


def test_every_folder_of_tests_is_run_by_a_command() -> None:
    """All that is not run by ``make test`` has a command of its own, which names it."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    always = set(settings["tool"]["pytest"]["ini_options"]["testpaths"])
    recipes = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    homes = {"/".join(folder.relative_to(ROOT).parts[:2]) for folder in folders_of_tests()}
    named = {home for home in homes if re.search(f"pytest .*{home}(?![\\w-])", recipes)}
    assert always <= homes
    assert not homes - always - named


def test_no_test_imports_another() -> None:
    """What several need is in ``tests/support``."""
    found = {}
    for path in (ROOT / "tests").rglob("*.py"):
        tree = ast.parse(path.read_text())
        names = [n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module]
        names += [a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names]
        if bad := [name for name in names if name.startswith(("test_", "conftest"))]:
            found[name_of(path)] = bad
    assert not found


def test_no_module_hides_a_name_that_the_library_exports() -> None:
    """Importing a module sets an attribute of its package, over a function of the same name."""
    modules = {path.stem for path in (ROOT / "jeep_core").glob("*.py")}
    modules |= {path.name for path in (ROOT / "jeep_core").iterdir() if path.is_dir()}
    assert not modules & set(jeep_core.__all__)
    import_module(jeep_core.edit.__module__)
    assert callable(jeep_core.edit)


@pytest.mark.parametrize("package", [*PACKAGES, "tools", "bench"])
def test_no_docstring_begins_with_what(package: str) -> None:
    """A summary names the thing: "The progress of a job", not "What a job has done"."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = [
        f"{name_of(path)}: {said.splitlines()[0]}"
        for path in sorted((ROOT / package).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, kinds) and (said := ast.get_docstring(node) or "").startswith("What ")
    ]
    assert not found


@pytest.mark.parametrize("house", HOUSES)
def test_every_text_that_stands_alone_documents_what_is_before_it(house: str) -> None:
    """A docstring begins its module, class or function, or follows the name that it is about."""

    def is_text(node: ast.stmt) -> bool:
        return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)

    found = [
        f"{name_of(path)}:{text.lineno}"
        for path in sorted((ROOT / house).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(body := getattr(node, "body", None), list)
        for before, text in pairwise(body)
        if is_text(text) and text.value.value is not ...
        and not isinstance(before, ast.Assign | ast.AnnAssign)
    ]  # fmt: skip
    assert not found
