"""The reference of the Python packages: a page for each room, filled in from docstrings.

A page only names the package; the site's generator reads its source, and imports nothing.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("jeep_core", "service.client", "service.settings")
"""Packages that are there to be imported by others.  Of ``jeep_core`` every room has a page."""
LEFT_OUT = {"atlas"}
"""Rooms of data."""


def rooms(package: Path) -> list[str]:
    """Names of a package's modules and folders that have a page, ``editing`` first."""
    found = [
        path.stem
        for path in package.iterdir()
        if (path / "__init__.py").exists() or (path.suffix == ".py" and path.stem != "__init__")
    ]
    return sorted(set(found) - LEFT_OUT, key=lambda name: (name != "editing", name))


def module_page(name: str) -> str:
    """The page of a module or package by its dotted name."""
    return f"# `{name}`\n\n::: {name}\n    options:\n      show_root_heading: false\n"


def summary(path: Path) -> str:
    """The first sentence of a module's docstring."""
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    docstring = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""
    return docstring.split("\n\n")[0].replace("\n", " ").replace("``", "`")


def overview(names: dict[str, str]) -> str:
    """The page that lists all others; ``names``: what each module says of itself."""
    lines = [f"| [`{name}`]({name}.md) | {text} |" for name, text in names.items()]
    head = "# Python packages\n\nFrom the docstrings.\n\n| module | |\n|---|---|\n"
    return head + "\n".join(lines) + "\n"


def write_library_reference(folder: Path) -> Iterator[Path]:
    """Write the pages into a folder; yields their paths."""
    library = [f"jeep_core.{room}" for room in rooms(ROOT / "jeep_core")]
    names = {}
    for name in (*library, *PACKAGES[1:]):
        names[name] = summary(ROOT.joinpath(*name.split(".")))
        path = folder / f"{name}.md"
        path.write_text(module_page(name), encoding="utf-8")
        yield path
    path = folder / "library.md"
    path.write_text(overview(names), encoding="utf-8")
    yield path
