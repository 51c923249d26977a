"""Examples of a page: its Python blocks, each with the output that the page shows under it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n^```\n(.*?)^```\n)?", re.M | re.S)


class Example(NamedTuple):
    """The code, the output if the page shows any, and the line of the page where it begins."""

    code: str
    output: str | None
    line: int


def examples(page: Path) -> list[Example]:
    """All examples, in the order of the page."""
    text = page.read_text(encoding="utf-8")
    return [
        Example(found[1], found[2], text.count("\n", 0, found.start()) + 2)
        for found in BLOCK.finditer(text)
    ]


def run(example: Example, page: Path, names: dict[str, object]) -> None:
    """Run an example with the names of those before; errors show the lines of the page."""
    exec(compile("\n" * (example.line - 1) + example.code, str(page), "exec"), names)
