"""All benchmarks in one go, and the yardstick of value optimisation."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support import ROOT

from bench import __main__ as whole
from bench.library import estimate, values
from bench.library.plain import optimise_plain
from bench.report import Row
from bench.workload import workload
from jeep_core.models.views import ModelView


def test_rows_that_a_part_yields_as_it_measures_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn: list[dict[str, Any]] = []

    def part(repeats: int) -> Iterator[Row]:
        for name in ("first", "second"):
            yield Row(name, 1.0, 2.0 * repeats, "s", 2.0, 2.0, 2.0, "")

    monkeypatch.setattr(whole, "PARTS", {"generation": ("played", 2)})
    monkeypatch.setattr(whole, "import_module", lambda name: SimpleNamespace(run=part))
    monkeypatch.setattr(whole.scaling, "run", list)
    monkeypatch.setattr(whole, "draw", lambda figures, out: drawn.append(figures))
    monkeypatch.setattr("sys.argv", ["bench", "--out", str(tmp_path)])
    whole.main()
    kept = json.loads((tmp_path / "performance.json").read_text())
    for figures in (kept, *drawn):
        assert [row["what"] for row in figures["rows"]] == ["first", "second"]
    # in the table of the part, and in that of all
    assert capsys.readouterr().out.count("| second | 1 | 4 | s |") == 2


def test_values_of_both_sides_are_the_same() -> None:
    rows = values.compare("atlas-gptj", 1, 1)
    assert [row.what for row in rows] == [
        "atlas-gptj, 1 facts, against one at a time", "atlas-gptj, 1 facts, against a plain batch",
    ]  # fmt: skip
    [off] = re.findall(r"largest relative difference of δ' (\S+);", rows[0].note)
    assert float(off) < 1e-4


def test_the_yardstick_takes_the_published_steps_alone() -> None:
    base, facts, objective = workload("atlas-gptj", 1)
    assert objective.optimizer == "newton"
    with pytest.raises(ValueError, match="Adam's steps, not newton"):
        optimise_plain(ModelView(base), facts, objective)


def test_the_page_has_the_estimate_that_the_command_prints(
    capsys: pytest.CaptureFixture[str],
) -> None:
    estimate.main()
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 4
    assert "\n".join(rows) in page
