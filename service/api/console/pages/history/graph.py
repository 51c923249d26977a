"""The lines beside a list of versions, newest first: from each version to the one it is built on.

A line has a lane, which is a column.  The first lane is that of head's line.  The lanes that are
open below a page's last row are written into the address of the next page, so that a page is drawn
from its own versions alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from service.store.versions import VERSION_ID

MOST_LANES = 8
"""Lanes with lines.  Further branches get a dot in one more, and a line that breaks off."""
STEP, LEFT, DOT = 14, 10, 19
"""Pixels between lanes, before the first one, and from a row's top to its dot."""


@dataclass(frozen=True)
class Lane:
    """A lane that waits for a version.  ``drawn``: something above has a line to it."""

    waits_for: str
    drawn: bool = True


Lanes = Sequence[Lane | None]


@dataclass(frozen=True)
class Row:
    """The drawing of one version, in columns.

    ``passing``: lines from top to bottom.  ``joining``: lines of versions above, other than in the
    dot's own column, that are built on this one.  ``above``, ``below``: whether the dot's own line
    goes on there; ``cut``: it goes on below, and is not drawn, as too many do.
    """

    column: int
    passing: tuple[int, ...]
    joining: tuple[int, ...]
    above: bool
    below: bool
    cut: bool = False

    @property
    def width(self) -> int:
        """Pixels that the row's columns take."""
        return 2 * LEFT + STEP * max((self.column, *self.passing, *self.joining))

    @staticmethod
    def x(column: int) -> int:
        """The middle of a column in pixels."""
        return LEFT + STEP * column


def begin(head: str) -> Lanes:
    """The lanes above the newest version: the first one is kept for head."""
    return [Lane(head, drawn=False)]


def draw(
    versions: Iterable[tuple[str, str | None]], lanes: Lanes
) -> tuple[list[Row], Sequence[Lane | None]]:
    """The rows of versions, each with its parent, and the lanes that are open below the last."""
    open_lanes = list(lanes)
    rows = []
    for version, parent in versions:
        rows.append(_row(version, parent, open_lanes))
    return rows, open_lanes


def _row(version: str, parent: str | None, lanes: list[Lane | None]) -> Row:
    waiting = [i for i, lane in enumerate(lanes) if lane and lane.waits_for == version]
    column = waiting[0] if waiting else _free(lanes)
    own = lanes[column] if waiting else None
    above = own is not None and own.drawn
    for i in waiting:
        lanes[i] = None
    passing = tuple(i for i, lane in enumerate(lanes) if lane and lane.drawn)
    cut = column >= MOST_LANES
    if parent is not None and not cut:
        lanes[column] = Lane(parent)
    while lanes and lanes[-1] is None:
        lanes.pop()
    return Row(
        column=column,
        passing=passing,
        joining=tuple(waiting[1:]),
        above=above,
        below=parent is not None and not cut,
        cut=cut and parent is not None,
    )


def _free(lanes: list[Lane | None]) -> int:
    """The first column without a line; the one after the last lane if there is none."""
    free = next((i for i, lane in enumerate(lanes) if lane is None), len(lanes))
    while len(lanes) <= free < MOST_LANES:
        lanes.append(None)
    return free


def written(lanes: Lanes) -> str:
    """Lanes as a part of an address: ``v12,,-v3``; ``-`` before a line that is not drawn yet."""
    return ",".join("" if one is None else "-" * (not one.drawn) + one.waits_for for one in lanes)


def read(text: str) -> Lanes:
    """The lanes of an address; what is no version is an empty lane."""
    found: list[Lane | None] = []
    for part in text.split(",")[:MOST_LANES]:
        name = part.removeprefix("-")
        found.append(Lane(name, name == part) if VERSION_ID.fullmatch(name) else None)
    return found
