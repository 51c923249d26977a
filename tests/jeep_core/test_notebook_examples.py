"""The examples of docs/editors.md and README.md run and say what they are said to."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def blocks(path: Path, heading: str) -> list[str]:
    """The Python blocks of one section of a page."""
    section = path.read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)


def test_a_notebook_asks_whether_an_edit_succeeded(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    judging, watching = blocks(ROOT / "docs" / "editors.md", "Edits in a notebook")
    exec(judging, names)
    [outcome] = names["outcomes"]
    assert outcome.success
    assert (outcome.before.is_new, outcome.after.is_new) == (False, True)
    assert outcome.after.text.strip().startswith("Japan")
    assert names["found"].efficacy == 1
    assert names["found"].locality_before == 1
    capsys.readouterr()
    first = names["result"].view.weights_sha256()
    exec(watching, names)
    assert "optimise 1 1" in capsys.readouterr().out
    assert names["result"].view.weights_sha256() == first


def test_the_readme_s_example_prints_the_new_answer(capsys: pytest.CaptureFixture[str]) -> None:
    [example] = blocks(ROOT / "README.md", "One edit and its effect")
    exec(example, {})
    assert "Japan" in capsys.readouterr().out
