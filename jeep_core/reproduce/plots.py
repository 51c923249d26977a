"""Plots of the report: the scaling curve (figure 4), the sweep of γ* (figure 6), the comparison."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

from jeep_core.editors import available
from jeep_core.editors.record import PlotStyle
from jeep_core.reports import colours, style
from jeep_core.reproduce.paper import OURS
from jeep_core.text.counting import counted

METRICS = {"score": "Score", "efficacy": "ES", "generalization": "GS", "locality": "LS"}
MARKERS, LINES = ("o", "s", "^", "D", "v", "P", "X", "*"), ("-", "--", "-.", ":")
"""Of editors whose records do not say how they are drawn."""
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
    styles = plot_styles(dict.fromkeys(cell["editor"] for cell in cells))
    for axes, (metric, label) in zip(panels.flat, METRICS.items(), strict=True):
        for editor, look in styles.items():
            mine = [cell for cell in cells if cell["editor"] == editor]
            x, band = [cell["edits"] for cell in mine], _band(mine, metric)
            style.line(axes, x, band, look.color, title_of(editor), look.marker, look.line)
        axes.set_xscale("log", base=2)
        axes.set_ylabel(f"{label} (%)")
        _edits_axis(axes, [cell["edits"] for cell in cells])
    for axes in panels[1]:
        axes.set_xlabel("edits")
    style.legend_above(figure, panels[0][0], len(styles))
    return style.save(figure, folder, "scaling")


def sweep(cells: Cells, folder: Path) -> list[Path]:
    """Score, ES, GS and LS against γ of the high region."""
    figure, panels = style.panels(1, 1, 2.1)
    axes = panels[0][0]
    x = [cell["clamp"] for cell in cells]
    looks = zip(
        METRICS.items(),
        (colours.BLACK, colours.BLUE, colours.ORANGE, colours.GREEN),
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
                    _dot(axes, place, cell["metrics"].get("score"), editor == OURS)
        axes.set_xlim(-3, 103)
        axes.set_xlabel(f"Score (%)\n{suite}, {counted(most, 'edit')}")
    panels[0][0].set_yticks(range(len(editors)), [title_of(name) for name in reversed(editors)])
    return style.save(figure, folder, "comparison")


def title_of(name: str) -> str:
    """The name of an editor, of another row, or of the unedited model in a plot."""
    record = available()[0].get(name)
    return name.upper() if record is None or record.title is None else record.title


def plot_styles(editors: Iterable[str]) -> dict[str, PlotStyle]:
    """How each of these editors is drawn: as its record says, else in a colour that is free."""
    records, _ = available()
    given = {name: record.plot for name, record in records.items()}
    found = {name: given.get(name) for name in editors}
    taken = {look.color for look in found.values() if look is not None}
    free = [color for color in colours.ALL if color not in taken] or list(colours.ALL)
    unnamed = [name for name, look in found.items() if look is None]
    others = {
        name: PlotStyle(free[i % len(free)], MARKERS[i % len(MARKERS)], LINES[i % len(LINES)])
        for i, name in enumerate(unnamed)
    }
    return {name: look or others[name] for name, look in found.items()}


def _dot(axes: Axes, place: int, found: Mapping[str, float] | None, ours: bool) -> None:
    if found is None:
        return
    error = [[found["value"] - found["low"]], [found["high"] - found["value"]]]
    color = colours.BLUE if ours else colours.BLACK
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
