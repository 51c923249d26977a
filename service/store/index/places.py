"""Places of versions in the tree: lines, depths, and spans of ancestors (`catalogue`)."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Span:
    """Ancestors in one line: depths ``low`` to ``high``, both included."""

    line: int
    low: int
    high: int


def contains(spans: Sequence[Span], line: int, depth: int) -> bool:
    """Whether a place is among some spans."""
    return any(span.line == line and span.low <= depth <= span.high for span in spans)


def is_edited(connection: sqlite3.Connection, spans: Sequence[Span], question: str) -> bool:
    """Whether a version in some spans has edited a question."""
    found = connection.execute(
        "SELECT v.line, v.depth FROM fact f JOIN version v ON v.number = f.number "
        "WHERE f.question = ? ORDER BY v.depth DESC",
        (question,),
    )
    return any(contains(spans, line, depth) for line, depth in found)


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
