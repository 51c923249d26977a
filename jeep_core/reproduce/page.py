"""The report as one HTML file that needs nothing else."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from jeep_core.reproduce import paper

COLUMNS = ("score", "efficacy", "generalization", "locality")


def page(report: Mapping[str, Any], plots: Mapping[str, Sequence[Path]]) -> str:
    """HTML with the plots embedded and the paper's own figures beside measured ones."""
    environment = Environment(
        loader=PackageLoader("jeep_core.reproduce"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure"] = figure
    template = environment.get_template("report.html")
    return template.render(
        report=report,
        columns=COLUMNS,
        plots={name: _embedded(paths[0]) for name, paths in plots.items()},
        tables=list(_tables(report)),
        ablation=paper.ABLATION,
        case=paper.CASE,
        ours=paper.OURS,
    )


def figure(found: Mapping[str, float] | None) -> str:
    """A figure with its interval, or a dash."""
    if found is None:
        return "–"
    return f"{found['value']:.1f} ({found['low']:.1f}–{found['high']:.1f})"


def _tables(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A table per suite and number of edits, rows with the paper's figures."""
    cells = report["experiments"].get("comparison", [])
    places = dict.fromkeys((cell["suite"], cell["edits"]) for cell in cells)
    tables = []
    for suite, edits in places:
        known = paper.ZSRE if suite == report["accuracy"] else paper.COUNTERFACT
        rows = [cell for cell in cells if (cell["suite"], cell["edits"]) == (suite, edits)]
        tables.append(
            {
                "suite": suite,
                "edits": edits,
                "number": 2 if suite == report["accuracy"] else 3,
                "rows": [
                    {**cell, "paper": known[report["paper"]].get(cell["editor"])} for cell in rows
                ],
            }
        )
    return tables


def _embedded(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
