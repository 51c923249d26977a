"""The picture of docs/real-models.md, drawn from the tables of that page.

``python -m tools.real_models_picture`` reads the rows of "Default hyper-parameters, on facts that
nothing was chosen on" and writes ``docs/figures/real-models.png``: Score and its parts by the
number of facts, with 95 % intervals over cases.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from matplotlib.ticker import NullLocator

from jeep_core.editors import record_of
from jeep_core.reports.style import COLUMN, drawing, panels

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE, PICTURE = DOCS / "real-models.md", DOCS / "figures" / "real-models.png"
BEGINS, ENDS = "## Default hyper-parameters, on facts", "\n## "
COLUMNS = ("ES", "GS", "LS", "Score")
_ROW = re.compile(r"^\| (\d+) \| ([\w-]+) \|(.*)\|$", re.MULTILINE)
_CELL = re.compile(r"([\d.]+)(?: \((\d+)–(\d+)\))?")

Cell = tuple[float, float, float]
"""A figure and its 95 % interval, in percent."""


def rows_of(page: str) -> dict[str, dict[int, list[Cell]]]:
    """ES, GS, LS and Score by editor and number of facts, from the page's Markdown.

    Raises:
        ValueError: a row of the section has no four figures.
    """
    section = page.partition(BEGINS)[2].partition(ENDS)[0]
    found: dict[str, dict[int, list[Cell]]] = defaultdict(dict)
    for facts, editor, rest in _ROW.findall(section):
        cells = [_CELL.match(cell.strip()) for cell in rest.split("|")[: len(COLUMNS)]]
        if len(cells) < len(COLUMNS) or not all(cells):
            raise ValueError(f"{editor}, {facts} facts: no figures for {', '.join(COLUMNS)}")
        found[editor.lower()][int(facts)] = [
            (float(m[1]), float(m[2] or m[1]), float(m[3] or m[1])) for m in cells if m
        ]
    return dict(found)


def draw(rows: Mapping[str, Mapping[int, list[Cell]]], path: Path) -> None:
    """Four panels with a line per editor, facts on a logarithmic axis."""
    with drawing():
        figure, axes = panels(2, 2, 4.2, sharex=True)
        figure.set_size_inches(1.6 * COLUMN, 4.2)
        for panel, (place, name) in enumerate(zip(axes.flat, COLUMNS, strict=True)):
            for shift, (editor, by_facts) in enumerate(rows.items()):
                style = record_of(editor).plot
                assert style is not None
                x = sorted(by_facts)
                y = [by_facts[n][panel] for n in x]
                errors = [[v - low for v, low, _ in y], [high - v for v, _, high in y]]
                place.errorbar(
                    [n * (1 + 0.07 * shift) for n in x], [v for v, _, _ in y], errors,
                    color=style.color, marker=style.marker, linestyle=style.line, label=editor,
                    elinewidth=0.6, capsize=1.5,
                )  # fmt: skip
            place.set_title(name)
            place.set_xscale("log", base=4)
            place.set_xticks([1, 16, 64, 256], ["1", "16", "64", "256"])
            place.xaxis.set_minor_locator(NullLocator())
        for place in axes[-1]:
            place.set_xlabel("facts edited together")
        for place in axes[:, 0]:
            place.set_ylabel("% of cases")
        figure.legend(
            *axes.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=5
        )
        figure.savefig(path)


def main() -> None:
    """Draw the picture again."""
    draw(rows_of(PAGE.read_text(encoding="utf-8")), PICTURE)


if __name__ == "__main__":
    main()
