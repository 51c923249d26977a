"""Pages name only commands and options that exist, and the reference is the current one."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.cli.tree import ALIASES, VISIBLE

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "deploy" / "README.md"]
FENCE = re.compile(r"^```\w*\n(.*?)^```", re.M | re.S)
CODE = re.compile(r"`([^`]+)`")
IN_CODE = re.compile(r"(?:^|[;&|(]|\$ )\s*(?:\.venv/bin/)?(jeep [^;&|)>#\n]*)", re.M)
EARLIER = re.compile(rf"\bjeep ({'|'.join(str(one.name) for one in ALIASES)})(?![\w-])")
COMMANDS: dict[str, Any] = {str(one.name): one.load() for one in (*VISIBLE, *ALIASES)}


def command_lines(page: str) -> Iterator[str]:
    """Every command line that begins with ``jeep``: in blocks and in code within text."""
    for block in FENCE.findall(page):
        yield from IN_CODE.findall(block.replace("\\\n", " "))
    for code in CODE.findall(FENCE.sub("", page)):
        text = " ".join(code.split())
        if text.startswith("jeep "):
            yield text.partition("#")[0]


def unknown(line: str) -> str | None:
    """What of a command line does not exist."""
    _, *words = line.split()
    name = words.pop(0)
    if name in ("--help", "--version") or name.isupper():  # an option of its own, a placeholder
        return None
    if name not in COMMANDS:
        return name
    command = COMMANDS[name]
    inner = getattr(command, "commands", {})
    if inner:
        listing = not words or words[0].startswith("-")
        if listing and words and words[0] != "--help":
            command = inner["list"]
        elif words and words[0] in inner:
            command = inner[words.pop(0)]
        elif words and re.fullmatch(r"[a-z-]+", words[0]):
            return words[0]
    flags = {flag for one in command.params for flag in (*one.opts, *one.secondary_opts)}
    for word in words:
        flag = word.strip("[].,").partition("=")[0]
        if re.fullmatch(r"--[a-z][a-z-]*", flag) and flag not in flags | {"--help"}:
            return flag
    return None


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_page_names_only_what_there_is(path: Path) -> None:
    lines = list(command_lines(path.read_text("utf-8")))
    assert {line: what for line in lines if (what := unknown(line))} == {}


def test_command_lines_are_found_and_looked_up() -> None:
    page = "\n".join(
        [
            "text `jeep jobs --status",
            "failed` and `jeep edti FILE`, `jeeps`",
            "```sh",
            "export KEY=$(jeep keys create me --scope read)",
            "jeep reproduce --model m \\",
            "    --sizes 1 16 --colour red   # a remark: jeep x",
            "jeep store vacuum | less",
            "```",
        ]
    )
    found = list(command_lines(page))
    assert [line.split()[1] for line in found] == ["keys", "reproduce", "store", "jobs", "edti"]
    assert [unknown(line) for line in found] == [None, "--colour", "vacuum", None, "edti"]
    assert len(list(command_lines((ROOT / "docs/using.md").read_text("utf-8")))) > 10


def earlier_names(text: str) -> set[str]:
    """Commands that a text gives by their names of earlier releases, also across lines."""
    joined = re.sub(r'"\s*\n\s*f?"', "", text)
    return set(EARLIER.findall(re.sub(r"\s*\n\s*(?:#\s*)?", " ", joined)))


def test_texts_give_commands_by_their_present_names() -> None:
    pages = [path for path in PAGES if path.name != "cli.md"]
    modules = [path for house in ("jeep_core", "service") for path in (ROOT / house).rglob("*.py")]
    texts = [path for path in (*pages, *modules) if path != ROOT / "service" / "cli" / "tree.py"]
    found = {str(path.relative_to(ROOT)): earlier_names(path.read_text("utf-8")) for path in texts}
    assert {path: names for path, names in found.items() if names} == {}


def test_an_earlier_name_is_found_also_across_lines() -> None:
    text = '`jeep\nsnapshots`, `jeep versions name`,\n"as jeep "\n    "revert does", `jeep names`'
    assert earlier_names(text) == {"snapshots", "revert"}


def test_the_reference_is_what_its_command_prints() -> None:
    command = [sys.executable, "-m", "service.cli.reference"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    page = (ROOT / "docs" / "cli.md").read_text("utf-8")
    assert page == shown.stdout, "python -m service.cli.reference > docs/cli.md"
