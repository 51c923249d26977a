"""One look for all plots: a column of a two-column paper, colours that the colour-blind can tell.

Every series also has a marker or line style of its own.  Figures are made without pyplot, so that
a thread of a server may draw.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from jeep_core.reports.colours import BLACK, BLUE

COLUMN = 3.35
"""Width of a column, in inches."""

BAND_ALPHA = 0.2
SHADE: Mapping[str, Any] = {"color": BLACK, "alpha": 0.1, "linewidth": 0}
"""Layers or a range that the text speaks of."""

STYLE: Any = {
    "font.size": 7.5,
    "axes.titlesize": 7.5,
    "axes.labelsize": 7.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.handlelength": 1.8,
    "legend.columnspacing": 1.2,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.4,
    "axes.axisbelow": True,
    "lines.linewidth": 1.2,
    "lines.markersize": 3,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "savefig.dpi": 300,
    "svg.hashsalt": "jeep",
    "svg.fonttype": "path",
}


@contextmanager
def drawing() -> Iterator[None]:
    """Make and save figures in here."""
    with mpl.rc_context(STYLE):
        yield


def panels(rows: int, columns: int, height: float, **kwargs: Any) -> tuple[Figure, Any]:
    """A figure of column width and its axes (rows, columns); ``height`` of all, in inches."""
    figure = Figure(figsize=(COLUMN, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.03)  # type: ignore[union-attr, call-arg]
    return figure, figure.subplots(rows, columns, squeeze=False, **kwargs)


def line(
    axes: Axes,
    x: Sequence[float],
    band: Mapping[str, Sequence[float]],
    color: str,
    label: str | None = None,
    marker: str = "o",
    style: str = "-",
) -> None:
    """A mean with its 95 % band (``mean``, ``low``, ``high``)."""
    axes.fill_between(x, band["low"], band["high"], color=color, alpha=BAND_ALPHA, linewidth=0)
    axes.plot(x, band["mean"], style, color=color, label=label, marker=marker)


def interval_patch() -> Patch:
    """The legend's entry for bands."""
    return Patch(color=BLUE, alpha=BAND_ALPHA, linewidth=0, label="95 % interval of the mean")


def layer_axis(axes: Axes, label: bool = True) -> None:
    """Whole numbers along the x axis."""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10))
    if label:
        axes.set_xlabel("layer")


def legend_above(figure: Figure, axes: Axes, columns: int, extra: Sequence[Any] = ()) -> None:
    """The legend of one panel, above all of them."""
    handles, labels = axes.get_legend_handles_labels()
    handles += extra
    labels += [handle.get_label() for handle in extra]
    figure.legend(handles, labels, loc="outside upper center", ncols=columns)


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write PNG and SVG; the same figure gives the same files."""
    paths = [folder / f"{name}.png", folder / f"{name}.svg"]
    figure.savefig(paths[0], metadata={"Software": None})
    figure.set_layout_engine("none")  # arranged once, not for each file
    figure.savefig(paths[1], metadata={"Date": None})
    return paths
