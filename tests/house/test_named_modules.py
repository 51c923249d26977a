"""Docstrings, comments and pages name files and modules that exist."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import ROOT

HOUSES = ("jeep_core", "service", "tools", "bench", "tests")
NAMED_FILE = re.compile(rf"(?<![\w./-])((?:{'|'.join((*HOUSES, 'docs'))})/[\w./-]+\.(?:py|md))\b")
NAMED_MODULE = re.compile(r"`((?:jeep_core|service|tools|bench)(?:\.\w+)+)`")
RUN = re.compile(r"python3? -m ((?:jeep_core|service|tools|bench)(?:\.\w+)*)")
BARE_FILE = re.compile(r"``?([a-z_]+\.py)``?")
PART_OF_A_PATH = re.compile(r"``?((?:\w+/)*\w+\.py)``?")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MADE_UP = {
    "tests/house": "asks for records of files that there are not",
    "tests/jeep_core/suites/test_new_format.py": "makes a format of its own",
}
"""Where code names files that are not meant to exist."""
EXAMPLES = {
    "jeep_core/suites/formats/statements.py",
    "jeep_nudge/__init__.py",
    "jeep_nudge/editor.py",
}
"""Files that pages show for a reader to write."""


def prose(source: str) -> Iterator[tuple[int, str]]:
    """Comments and texts of a module with their first lines."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING):
            yield token.start[0], token.string


def is_there(module: str) -> bool:
    """Whether a dotted name is a folder, a module, or a name in one."""
    parts = module.split(".")
    for end in range(len(parts), 0, -1):
        path = ROOT.joinpath(*parts[:end])
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if file.exists():
            rest = parts[end:]
            return not rest or re.search(rf"\b{rest[0]}\b", file.read_text()) is not None
    return False


def not_run(text: str) -> list[str]:
    """Modules that a command runs and that are not there."""
    found = []
    for name in RUN.findall(text):
        path = ROOT.joinpath(*name.split("."))
        if not (path.with_suffix(".py").exists() or (path / "__main__.py").exists()):
            found.append(f"python -m {name}")
    return found


def missing_in(source: str, folder: Path) -> list[str]:
    """What a module's prose names and there is not, with the line."""
    found = []
    for line, text in prose(source):
        named = [name for name in NAMED_FILE.findall(text) if not (ROOT / name).exists()]
        named += [name for name in NAMED_MODULE.findall(text) if not is_there(name)]
        named += [name for name in BARE_FILE.findall(text) if not list(folder.rglob(name))]
        named += not_run(text)
        found += [f"line {line}: {name}" for name in named]
    return found


def modules(house: str) -> list[Path]:
    return [
        path
        for path in sorted((ROOT / house).rglob("*.py"))
        if not any(path.relative_to(ROOT).is_relative_to(name) for name in MADE_UP)
    ]


@pytest.mark.parametrize("house", HOUSES)
def test_what_prose_names_exists(house: str) -> None:
    wrong = {
        path.relative_to(ROOT).as_posix(): missing
        for path in modules(house)
        if (missing := missing_in(path.read_text(encoding="utf-8"), path.parent))
    }
    assert not wrong


def missing_in_page(text: str, files: set[str]) -> list[str]:
    """What a page names and is not there; ``files`` are the paths of all modules."""
    named = [name for name in NAMED_FILE.findall(text) if not (ROOT / name).exists()]
    named += [name for name in NAMED_MODULE.findall(text) if not is_there(name)]
    named += not_run(text)
    for part in PART_OF_A_PATH.findall(text):
        if not any(f"/{file}".endswith(f"/{part}") for file in files):
            named.append(part)
    return sorted(set(named) - EXAMPLES)


@pytest.fixture(scope="module")
def files() -> set[str]:
    found = (path for house in HOUSES for path in (ROOT / house).rglob("*.py"))
    return {path.relative_to(ROOT).as_posix() for path in found}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_what_a_page_names_exists(page: Path, files: set[str]) -> None:
    assert missing_in_page(page.read_text(encoding="utf-8"), files) == []


def test_an_old_name_is_found_in_a_page(files: set[str]) -> None:
    text = (
        "`defaults.py` and `suites/edit.py`, `jeep_core/wire.py` and `service.api.kept.head`;\n"
        "`editing.py`, `suites/edits.py`, `jeep_core/editing.py` and `jeep_nudge/editor.py`;\n"
        "`python -m bench`, `python -m bench.library.values x` and `python -m bench.values --y`"
    )
    assert missing_in_page(text, files) == [
        "jeep_core/wire.py", "python -m bench.values", "service.api.kept.head", "suites/edit.py",
    ]  # fmt: skip


def test_an_old_name_is_found() -> None:
    source = (
        '"""See ``jeep_core/wire.py`` and `service.api.kept.head`, with ``joined.py``.\n\n'
        'Also ``jeep_core/editing.py`` and `jeep_core.editing.edit`, with ``errors.py``.\n"""\n'
        "x = 1  # as tests/no/such.py says\n"
    )
    assert missing_in(source, ROOT / "jeep_core") == [
        "line 1: jeep_core/wire.py",
        "line 1: service.api.kept.head",
        "line 1: joined.py",
        "line 5: tests/no/such.py",
    ]
