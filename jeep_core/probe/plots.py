"""Plots of a probe's JSON record, for a column of a paper.  Needs the ``report`` extra.

``answers`` is the paper's figure 2 (``answers-no-norm`` the same without the final norm),
``branches`` shows what attention and MLPs add, ``word-sets`` is figure 5, ``patching`` shows what
moving the subject's state does.  Bands are 95 % bootstrap intervals of the mean over prompts;
proposed layers are shaded in grey.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from jeep_core.reports import colours, style

Record = Mapping[str, Any]

POSITIONS = {"subject_last": "subject's last token", "prediction": "prediction position"}
WORD_SETS = {
    "original": ("original answer", colours.BLUE, "o", "-"),
    "factual": ("factual", colours.GREEN, "s", "-"),
    "non_factual": ("other related words", colours.ORANGE, "^", "--"),
    "stop_words": ("stop words", colours.VERMILION, "v", "--"),
    "unrelated": ("unrelated", colours.BLACK, "x", ":"),
}


def draw(record: Record, folder: Path) -> list[Path]:
    """All plots that the record has figures for, as PNG and SVG in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    figures: dict[str, Callable[[], Figure]] = {
        "branches": lambda: branches(record),
        "patching": lambda: patching(record),
    }
    if not record.get("quick"):
        figures["answers"] = lambda: answers(record, "final_norm")
        figures["answers-no-norm"] = lambda: answers(record, "no_norm")
    if record["word_sets"]:
        figures["word-sets"] = lambda: word_sets(record)
    with style.drawing():
        return [path for name, make in figures.items() for path in style.save(make(), folder, name)]


def answers(record: Record, lens: str) -> Figure:
    """Rank and probability of both answers in the blocks' outputs, at both positions."""
    figure, axes = style.panels(2, 2, 3.3, sharex=True)
    layers = range(record["n_layers"])
    for row, (position, title) in enumerate(POSITIONS.items()):
        output = record["answers"][lens][position]["output"]
        for column, name in enumerate(("rank", "probability")):
            place: Axes = axes[row, column]
            for answer, color, marker in (
                ("original", colours.BLUE, "o"), ("target", colours.VERMILION, "s"),
            ):  # fmt: skip
                style.line(place, layers, output[answer][name], color, f"{answer} answer", marker)
            place.set_ylabel(name)
            place.set_title(title)
            style.layer_axis(place, label=row == 1)
            if name == "rank":
                place.set_ylabel("rank (0: top)")
                worst = max(1.0, *(max(output[answer]["rank"]["high"]) for answer in output))
                place.set_ylim(1.06 * worst, -0.06 * worst)
        _shade(record, axes[row, :], "low" if position == "subject_last" else "high")
    style.legend_above(figure, axes[0, 0], 2, _patches(record))
    return figure


def branches(record: Record) -> Figure:
    """Contributions of each block's attention and MLP to P(original) - P(target), in points."""
    figure, axes = style.panels(1, 1, 2.1)
    place: Axes = axes[0, 0]
    layers = range(record["n_layers"])
    evidence = record["branches"]
    style.line(place, layers, evidence["attention"], colours.GREEN, "attention", "s", "--")
    style.line(place, layers, evidence["mlp"], colours.PURPLE, "MLP", "o")
    place.axhline(0, color=colours.BLACK, lw=0.6)
    place.set_ylabel("added to P(original) − P(target)\nat the prediction position")
    style.layer_axis(place)
    _shade(record, [place], "high")
    style.legend_above(figure, place, 2, _patches(record))
    return figure


def patching(record: Record) -> Figure:
    """By how much moving the state at the subject's last token changes answers."""
    figure, axes = style.panels(1, 1, 2.2)
    place: Axes = axes[0, 0]
    layers, patched = range(record["n_layers"]), record["patching"]
    if patched["exchange"]:
        exchange = patched["exchange"]
        style.line(place, layers, exchange["effect"], colours.BLUE, "exchange: original lost", "o")
        style.line(
            place, layers, exchange["carried"], colours.VERMILION,
            "exchange: other's gained", "s", "--",
        )  # fmt: skip
    if patched["restoration"]:
        style.line(
            place, layers, patched["restoration"]["effect"], colours.GREEN,
            "restoration: original gained", "^", ":",
        )  # fmt: skip
    place.set_ylabel("change of probability")
    place.set_ylim(bottom=min(0.0, place.get_ylim()[0]))
    style.layer_axis(place)
    _shade(record, [place], "low")
    style.legend_above(figure, place, 2, _patches(record))
    return figure


def word_sets(record: Record) -> Figure:
    """Mean probability of the tokens of each set at the prediction position (figure 5)."""
    figure, axes = style.panels(1, 1, 2.5)
    place: Axes = axes[0, 0]
    layers = range(record["n_layers"])
    for name, (label, color, marker, dashes) in WORD_SETS.items():
        found = record["word_sets"][name]
        if found["output"]:
            style.line(place, layers, found["output"], color, label, marker, dashes)
    place.set_yscale("log")
    place.minorticks_off()
    place.set_ylabel("mean probability per token")
    style.layer_axis(place)
    style.legend_above(figure, place, 2, [style.interval_patch()])
    return figure


def _shade(record: Record, axes: Any, region: str) -> None:
    if record["proposal"]:
        chosen = record["proposal"][region]
        for place in axes:
            place.axvspan(chosen[0] - 0.4, chosen[-1] + 0.4, **style.SHADE)


def _patches(record: Record) -> list[Patch]:
    proposed = [Patch(label="proposed layers", **style.SHADE)] if record["proposal"] else []
    return [style.interval_patch(), *proposed]
