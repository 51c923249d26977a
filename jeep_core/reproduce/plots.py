"""Plots of the report: the scaling curve (figure 4), the sweep of γ* (figure 6), the comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

from jeep_core.reports import style

METRICS = {"score": "Score", "efficacy": "ES", "generalization": "GS", "locality": "LS"}
LOOKS = {
    "jeep": (style.BLUE, "o", "-"),
    "memit": (style.VERMILION, "s", "--"),
    "pmet": (style.GREEN, "^", "-."),
    "malmen": (style.PURPLE, "D", ":"),
}
Cells = Sequence[Mapping[str, Any]]


def draw(experiments: Mapping[str, Cells], folder: Path) -> dict[str, list[Path]]:
    """All plots that there are figures for, as PNG and SVG; paths by experiment."""
    found: dict[str, list[Path]] = {}
    with style.drawing():
        for name, plot in (("scaling", scaling), ("sweep", sweep), ("comparison", comparison)):
            if experiments.get(name):
                found[name] = plot(experiments[name], folder)
    return found


def scaling(cells: Cells, folder: Path) -> list[Path]:
    """Score, ES, GS and LS against the number of edits, a band for 95 %."""
    figure, panels = style.panels(2, 2, 3.3, sharex=True)
    editors = list(dict.fromkeys(cell["editor"] for cell in cells))
    for axes, (metric, label) in zip(panels.flat, METRICS.items(), strict=True):
        for editor in editors:
            mine = [cell for cell in cells if cell["editor"] == editor]
            color, marker, dashes = LOOKS[editor]
            x = [cell["edits"] for cell in mine]
            style.line(axes, x, _band(mine, metric), color, editor.upper(), marker, dashes)
        axes.set_xscale("log", base=2)
        axes.set_ylabel(f"{label} (%)")
        _edits_axis(axes, [cell["edits"] for cell in cells])
    for axes in panels[1]:
        axes.set_xlabel("edits")
    style.legend_above(figure, panels[0][0], len(editors))
    return style.save(figure, folder, "scaling")


def sweep(cells: Cells, folder: Path) -> list[Path]:
    """Score, ES, GS and LS against γ of the high region."""
    figure, panels = style.panels(1, 1, 2.1)
    axes = panels[0][0]
    x = [cell["clamp"] for cell in cells]
    looks = zip(
        METRICS.items(),
        (style.BLACK, style.BLUE, style.ORANGE, style.GREEN),
        ("o", "s", "^", "D"),
        ("-", "--", "-.", ":"),
        strict=True,
    )
    for (metric, label), color, marker, dashes in looks:
        style.line(axes, x, _band(cells, metric), color, label, marker, dashes)
    axes.set_xlabel("γ* (bound of ‖δ*‖, in norms of the hidden state)")
    axes.set_ylabel("%")
    style.legend_above(figure, axes, 4)
    return style.save(figure, folder, "sweep")


def comparison(cells: Cells, folder: Path) -> list[Path]:
    """Score of every editor at the largest number of edits, a panel for every suite."""
    suites = list(dict.fromkeys(cell["suite"] for cell in cells))
    most = max(cell["edits"] for cell in cells)
    editors = list(dict.fromkeys(cell["editor"] for cell in cells))
    height = 0.5 + 0.17 * len(editors)
    figure, panels = style.panels(1, len(suites), height, sharey=True)
    for axes, suite in zip(panels[0], suites, strict=True):
        for place, editor in enumerate(reversed(editors)):
            for cell in cells:
                if (cell["suite"], cell["edits"], cell["editor"]) == (suite, most, editor):
                    _dot(axes, place, cell["metrics"].get("score"), editor == "jeep")
        axes.set_xlim(-3, 103)
        axes.set_xlabel(f"Score (%)\n{suite}, {most} edits")
    panels[0][0].set_yticks(range(len(editors)), [name.upper() for name in reversed(editors)])
    return style.save(figure, folder, "comparison")


def _dot(axes: Axes, place: int, found: Mapping[str, float] | None, ours: bool) -> None:
    if found is None:
        return
    error = [[found["value"] - found["low"]], [found["high"] - found["value"]]]
    color = style.BLUE if ours else style.BLACK
    axes.errorbar([found["value"]], [place], xerr=error, fmt="o", color=color, capsize=2)


def _band(cells: Cells, metric: str) -> dict[str, list[float]]:
    found = [cell["metrics"][metric] for cell in cells]
    parts = {"mean": "value", "low": "low", "high": "high"}
    return {name: [one[part] for one in found] for name, part in parts.items()}


def _edits_axis(axes: Axes, edits: Sequence[int]) -> None:
    ticks = [n for n in (1, 4, 16, 64, 256, 1024, 4096, 16384) if n <= max(edits)]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(ScalarFormatter())
