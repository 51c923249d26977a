"""docs/tour.ipynb runs from beginning to end, and is stored with the outputs of its own code."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import ROOT

from tools.tour import NOTEBOOK, code_hash

PNG = b"\x89PNG\r\n\x1a\n"
LYON, MARSEILLE = "Lyon is a city in the country of", "Marseille is a city in the country of"


def read(path: Path) -> Any:
    import nbformat

    return nbformat.read(path, as_version=4)


@pytest.fixture(scope="module")
def stored() -> Any:
    return read(NOTEBOOK)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The notebook after a run of now."""
    path = tmp_path_factory.mktemp("tour") / "tour.ipynb"
    command = [sys.executable, "-m", "tools.tour", "--to", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return read(path)


@pytest.fixture(params=["stored", "fresh"])
def notebook(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook: Any, kind: str) -> list[str]:
    """All outputs of a kind, in their order."""
    found = [one for cell in code_cells(notebook) for one in cell.outputs]
    return [one.data[kind] for one in found if kind in one.get("data", {})]


def tables(notebook: Any) -> list[list[list[str]]]:
    """The rows of every table, without its header."""
    return [
        [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in text.split("\n")[2:]]
        for text in outputs(notebook, "text/markdown")
    ]


def test_every_cell_ran_in_order_without_an_error(notebook: Any) -> None:
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    kinds = [one.output_type for cell in cells for one in cell.outputs]
    assert "error" not in kinds
    streams = [o.name for cell in cells for o in cell.outputs if o.output_type == "stream"]
    assert "stderr" not in streams


def test_the_edit_the_rollback_and_what_they_leave_are_shown(notebook: Any) -> None:
    before, edited, both, why, versions, after = tables(notebook)
    assert dict(before)[LYON] == dict(before)[MARSEILLE] == "France"
    assert [(row[0], row[-1]) for row in edited] == [
        ("Lyon: Japan", "True"), ("Osaka: Mexico", "True"), ("Munich: Kenya", "True"),
    ]  # fmt: skip
    compared = {row[0]: row[1:] for row in both}
    assert compared[LYON] == ["France", "Japan"]
    assert compared[MARSEILLE] == ["France", "France"]
    assert (why[0][0], why[0][1]) == ("Lyon", "Japan")
    assert [row[:2] for row in versions[:2]] == [["v2", "suite"], ["v1", "cities"]]
    assert {row[0]: row[2] for row in after} == dict(before)


def test_three_figures_are_drawn(notebook: Any) -> None:
    pictures = [base64.b64decode(text) for text in outputs(notebook, "image/png")]
    assert [picture[:8] for picture in pictures] == [PNG] * 3
    assert all(len(picture) > 5000 for picture in pictures)


def test_the_stored_outputs_are_those_of_the_stored_code(stored: Any) -> None:
    assert stored.metadata["jeep"]["outputs_of"] == code_hash(stored), "run make tour"


def test_changed_code_is_noticed() -> None:
    changed = read(NOTEBOOK)
    code_cells(changed)[0].source += "\n1 / 0"
    assert changed.metadata["jeep"]["outputs_of"] != code_hash(changed)


def test_the_run_of_now_says_what_is_stored(stored: Any, fresh: Any) -> None:
    """Digits may differ between machines; the words of all tables do not."""

    def words(notebook: Any) -> list[str]:
        return [re.sub(r"[\d.+%-]+", "#", text) for text in outputs(notebook, "text/markdown")]

    assert words(stored) == words(fresh)


def test_nothing_of_a_machine_is_stored(stored: Any) -> None:
    text = json.dumps(list(stored.cells))
    assert not re.findall(r"/(?:home|root|tmp|work|usr|Users)/", text)
    assert not re.findall(r"https?://(?!127\.0\.0\.1)\S+", text)
    assert all(cell.metadata == {} for cell in stored.cells)
