"""Places of versions in the tree: lines, depths, and spans of ancestors (`catalogue`)."""

from __future__ import annotations

import sqlite3
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Span:
    """Ancestors in one line: depths ``low`` to ``high``, both included."""

    line: int
    low: int
    high: int


def contains(spans: Sequence[Span], line: int, depth: int) -> bool:
    """Whether a place is among some spans."""
    return any(span.line == line and span.low <= depth <= span.high for span in spans)


def span_at(spans: Sequence[Span], depth: int) -> Span | None:
    """The one of a version's spans that a depth is in, None beyond the version."""
    # they come from the tip down, each ending where the one before it begins
    number = bisect_right(spans, -depth, key=lambda span: -span.high) - 1
    return spans[number] if number >= 0 and spans[number].low <= depth else None


def nearest(
    connection: sqlite3.Connection,
    spans: Sequence[Span],
    table: Literal["fact", "asked"],
    key: Mapping[str, object],
    after: int | None = None,
) -> tuple[int, int] | None:
    """The first place after a depth, in some spans, with a row of a key; default: the last place.

    Rows of other places cost one look per span, however many there are: the table has indexes by
    key, line and depth, and by key and depth.
    """
    best, beyond = ("max", "<") if after is None else ("min", ">")
    same = " AND ".join(f"{column} = ?" for column in key)
    looked = f"SELECT {best}(depth) FROM {table} WHERE {same} AND"
    depth = spans[0].high + 1 if after is None else after
    while True:
        (anywhere,) = connection.execute(
            f"{looked} depth {beyond} ?", (*key.values(), depth)
        ).fetchone()
        span = None if anywhere is None else span_at(spans, anywhere)
        if span is None:
            return None
        (found,) = connection.execute(
            f"{looked} line = ? AND depth {beyond} ? AND depth BETWEEN ? AND ?",
            (*key.values(), span.line, depth, span.low, span.high),
        ).fetchone()
        if found is not None:
            return span.line, found
        depth = span.low if after is None else span.high


def is_edited(connection: sqlite3.Connection, spans: Sequence[Span], question: str) -> bool:
    """Whether a version in some spans has edited a question."""
    return nearest(connection, spans, "fact", {"question": question}) is not None


def spans_of(connection: sqlite3.Connection, number: int) -> list[Span] | None:
    """The ancestors of a version and itself, None if the index lacks it."""
    place = connection.execute(
        "SELECT line, depth FROM version WHERE number = ?", (number,)
    ).fetchone()
    found: list[Span] = []
    while place is not None:
        line, depth = place
        parent, fork = connection.execute(
            "SELECT parent, fork FROM line WHERE id = ?", (line,)
        ).fetchone()
        found.append(Span(line, fork + 1, depth))
        if parent is None:
            return found
        place = parent, fork
    return None
