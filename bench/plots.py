"""Plots of the speed benchmarks: ``python -m bench.plots FIGURES.json FOLDER``.

`workers` is drawn by ``python -m bench.library.simulated``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt

from bench.library.scaling import PASSES

mpl.use("Agg")
BLUE = "#2b6cb0"
KINDS = (
    ("more", "gain over the yardstick (more is better)"),
    ("less", "ours / yardstick (less is better)"),
    ("near one", "measured / counted (near one is better)"),
)
"""Kinds of ratios, as `bench.report.Row` has them, and what their axes say."""


def ratios(rows: list[dict[str, Any]], path: Path) -> None:
    """Ratios with their range over repeats, a panel for each kind that there is."""
    groups = [(label, [r for r in rows[::-1] if r["better"] == kind]) for kind, label in KINDS]
    groups = [(label, group) for label, group in groups if group]
    if not groups:
        return
    figure, panels = plt.subplots(
        len(groups), 1, figsize=(9, 0.36 * len(rows) + 0.8 * len(groups)), layout="constrained",
        squeeze=False, height_ratios=[len(group) for _, group in groups],
    )  # fmt: skip
    for (label, group), axes in zip(groups, panels.flat, strict=True):
        _bars(axes, group)
        axes.set_xlabel(f"{label}, range over repeats")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _bars(axes: Any, rows: list[dict[str, Any]]) -> None:
    values = [row["ratio"] for row in rows]
    spread = [
        [row["ratio"] - row["low"] for row in rows],
        [row["high"] - row["ratio"] for row in rows],
    ]
    axes.barh(range(len(rows)), values, xerr=spread, color=BLUE, ecolor="#1a202c", capsize=2)
    axes.set_yticks(range(len(rows)), [row["what"] for row in rows], fontsize=8)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    for i, row in enumerate(rows):
        axes.annotate(
            f"{row['ratio']:.2g}" if row["ratio"] < 10 else f"{row['ratio']:.0f}",
            (row["high"], i), (4, 0), textcoords="offset points", va="center", fontsize=8,
        )  # fmt: skip
    axes.axvline(1, color="#718096", lw=0.8)
    axes.set_xscale("log")
    axes.margins(x=0.08)
    axes.spines[["top", "right"]].set_visible(False)


def scaling(points: list[dict[str, Any]], path: Path) -> None:
    """Milliseconds per fact along every axis."""
    axes_names = list(dict.fromkeys(point["axis"] for point in points))
    figure, panels = plt.subplots(
        1, len(axes_names), figsize=(2.6 * len(axes_names), 2.7), layout="constrained"
    )
    for name, axes in zip(axes_names, panels, strict=True):
        mine = [point for point in points if point["axis"] == name]
        axes.plot([p["x"] for p in mine], [p["ms"] for p in mine], "o-", color=BLUE, ms=4)
        axes.set_xlabel(name)
        axes.set_ylim(bottom=0)
        if name == "facts":
            axes.set_xscale("log", base=4)
            axes.set_xticks([p["x"] for p in mine], [p["x"] for p in mine])
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel(f"ms per fact, {PASSES} passes")
    figure.savefig(path, dpi=130)
    plt.close(figure)


SHADES = {"work": "#2b6cb0", "waiting": "#90cdf4", "network": "#ed8936", "handling": "#ecc94b",
          "serial": "#4a5568"}  # fmt: skip


def workers(curves: dict[str, list[dict[str, Any]]], assumed: str, path: Path) -> None:
    """Gain by number of workers, and where the time of each job goes."""
    figure, panels = plt.subplots(
        2, len(curves), figsize=(3.1 * len(curves), 5.2), layout="constrained", squeeze=False
    )
    for (name, points), above, below in zip(curves.items(), *panels, strict=True):
        numbers = [point["workers"] for point in points]
        above.plot(numbers, numbers, "--", color="#718096", lw=0.8, label="ideal")
        above.plot(numbers, [p["gain"] for p in points], "o-", color=BLUE, ms=4, label="simulated")
        above.set_title(name, fontsize=9)
        above.set_yscale("log", base=2)
        above.set_yticks([1, *numbers], [1, *numbers], fontsize=8)
        shares = [[p[part] / p["seconds"] for p in points] for part in SHADES]
        below.stackplot(numbers, shares, labels=list(SHADES), colors=list(SHADES.values()))
        below.set_ylim(0, 1)
        below.set_xlabel("workers")
        for axes in (above, below):
            axes.set_xscale("log", base=2)
            axes.set_xticks(numbers, numbers, fontsize=8)
            axes.minorticks_off()
            axes.spines[["top", "right"]].set_visible(False)
    panels[0][0].set_ylabel("times one worker")
    panels[0][0].legend(fontsize=8, frameon=False)
    panels[1][0].set_ylabel("share of the time")
    figure.legend(*panels[1][0].get_legend_handles_labels(), loc="outside lower center", ncols=5,
                  fontsize=8, frameon=False)  # fmt: skip
    figure.suptitle(assumed, fontsize=8, color="#4a5568")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def draw(figures: dict[str, Any], folder: Path) -> None:
    """Both plots."""
    folder.mkdir(parents=True, exist_ok=True)
    ratios(figures["rows"], folder / "performance.png")
    scaling(figures["scaling"], folder / "scaling.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("figures", type=Path)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    draw(json.loads(args.figures.read_text()), args.folder)


if __name__ == "__main__":
    main()
