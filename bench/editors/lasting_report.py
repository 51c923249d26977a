"""Tables and plot of how long edits last."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt

mpl.use("Agg")
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")  # Okabe and Ito, distinguishable by all
MARKERS = ("o", "s", "^", "D")
Run = Mapping[str, Any]
Point = Callable[[Run, Mapping[str, Any]], float | None]


def _first(name: str) -> Point:
    return lambda run, record: record["first"][name] if "first" in record else None


def _perplexity(run: Run, record: Mapping[str, Any]) -> float | None:
    unedited: float = run["records"][0]["perplexity"]
    return record["perplexity"] / unedited if "perplexity" in record else None


COLUMNS: dict[str, Point] = {
    "batch 1: efficacy, %": _first("efficacy"),
    "batch 1: writes the answer, %": _first("greedy"),
    "perplexity / unedited": _perplexity,
}


def groups(runs: Sequence[Run], *names: str) -> Iterator[tuple[tuple[Any, ...], list[Run]]]:
    """Runs that agree in these names."""

    def key(run: Run) -> tuple[Any, ...]:
        return tuple(run[name] for name in names)

    for found, chosen in groupby(sorted(runs, key=key), key=key):
        yield found, list(chosen)


def curve(runs: Sequence[Run], point: Point) -> list[tuple[int, float]]:
    """Means over draws by batch."""
    values: dict[int, list[float]] = {}
    for run in runs:
        for record in run["records"]:
            value = point(run, record)
            if value is not None:
                values.setdefault(record["batch"], []).append(value)
    return [(batch, fmean(found)) for batch, found in sorted(values.items())]


def draw(runs: Sequence[Run], path: Path) -> None:
    """A row per size and model, a column per measure; dashed without preservation."""
    labels = list(dict.fromkeys(run["label"] for run in runs))
    rows = list(groups(runs, "size", "model"))
    plt.rcParams.update({"font.size": 12})
    figure, panels = plt.subplots(
        len(rows),
        len(COLUMNS),
        figsize=(10.5, 2.6 * len(rows) + 0.8),
        layout="constrained",
        squeeze=False,
    )
    handles: dict[str, Any] = {}
    for place, (line, ((size, model), mine)) in enumerate(zip(panels, rows, strict=True)):
        for axes, (what, point) in zip(line, COLUMNS.items(), strict=True):
            for (label, kept), chosen in groups(mine, "label", "preserve"):
                number = labels.index(label)
                x, y = zip(*curve(chosen, point), strict=True)
                (handles[f"{label}, {'kept' if kept else 'not kept'}"],) = axes.plot(
                    x, y, color=COLOURS[number], marker=MARKERS[number], ms=4.5, lw=2,
                    ls="-" if kept else (0, (3, 1.5)), mfc=None if kept else "white",
                    markevery=max(1, len(x) // 8),
                )  # fmt: skip
            axes.set_title(what if place == 0 else "", fontsize=12)
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(axis="y", color="#dddddd", lw=0.7)
            if "%" in what:
                axes.set_ylim(-4, 104)
            axes.set_xlabel("batches edited" if place == len(rows) - 1 else "")
        line[0].set_ylabel(f"{model}\n{size} facts a batch")
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=4)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def markdown(runs: Sequence[Run]) -> str:
    """A table per size; means over draws."""
    lines: list[str] = []
    for (n, size), mine in groups(runs, "batches", "size"):
        lines += [
            f"### {n} batches of {size}",
            "",
            "| model | editor | earlier edits | draws | efficacy when written | batch 1: efficacy "
            "| … paraphrases | … writes it (at first) | … neighbors | all: efficacy / "
            "paraphrases / neighbors | all: writes it | perplexity |",
            "|---|---|---|---|---|---|---|---|---|---|---|---|",
        ]
        for (model, label, kept), chosen in groups(mine, "model", "label", "preserve"):
            lines.append(_row(model, label, kept, chosen))
        lines.append("")
    return "\n".join(lines)


def _row(model: str, label: str, kept: bool, runs: Sequence[Run]) -> str:
    def mean(value: Callable[[Run], float]) -> float:
        return fmean(map(value, runs))

    def last(part: str, name: str) -> float:
        return mean(lambda run: run["records"][-1][part][name])

    written = mean(lambda r: fmean(record["written"]["efficacy"] for record in r["records"][1:]))
    at_first = mean(lambda run: run["records"][1]["first"]["greedy"])
    begin = mean(lambda run: run["records"][1]["first"]["efficacy"])
    risen = mean(lambda r: r["records"][-1]["perplexity"] / r["records"][0]["perplexity"])
    every = " / ".join(
        f"{last('all', name):.1f}" for name in ("efficacy", "generalization", "locality")
    )
    return (
        f"| {model} | {label} | {'kept' if kept else 'not kept'} | {len(runs)} | {written:.1f} | "
        f"{begin:.1f} → {last('first', 'efficacy'):.1f} | {last('first', 'generalization'):.1f} | "
        f"{last('first', 'greedy'):.1f} ({at_first:.1f}) | {last('first', 'locality'):.1f} | "
        f"{every} | {last('all', 'greedy'):.1f} | × {risen:.3f} |"
    )
