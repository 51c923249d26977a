"""The facts of a version, found without reading the versions that it is built on."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from jeep_core.spec.facts import composed, normalise
from service.contracts.schemas import FactEntry
from service.store.index.catalogue import Catalogue, Span, contains
from service.store.index.database import NoIndex, check_seal

BATCH = 200
_FACT = (
    "SELECT v.line, v.depth, f.number, f.position, f.place, f.question, f.entry, f.seal "
    "FROM version v JOIN fact f ON f.number = v.number "
)


@dataclass(frozen=True)
class Place:
    """Where a list goes on: after the fact with this ``index`` of this version."""

    version: str
    index: int


@dataclass(frozen=True)
class _Row:
    line: int
    depth: int
    number: int
    position: int
    place: int
    question: str
    entry: str


def facts(
    catalogue: Catalogue,
    tip: str,
    *,
    subject: str | None = None,
    containing: str | None = None,
    after: Place | None = None,
) -> Iterator[FactEntry]:
    """The facts of a version, those of the latest batch first.

    Without ``subject`` only live ones.  ``containing``: as `service.store.history.containing`.

    Raises:
        NoIndex: the index cannot be used, or lacks a version of the line; before the first fact.
    """
    spans = catalogue.spans(tip)
    if spans is None:
        raise NoIndex(f"{tip} is built on a version that cannot be read")
    for row in _rows(catalogue, spans, subject, containing, after):
        later = _later(catalogue, spans, row)
        if later is not None and subject is None:
            continue
        entry = json.loads(row.entry) | _checked(catalogue, spans, row)
        entry |= {"state": "live" if later is None else "superseded", "superseded_by": later}
        yield FactEntry.model_validate(entry)


def checks(catalogue: Catalogue, tip: str, version: str, index: int) -> list[tuple[str, bool]]:
    """The versions of a line that were asked a fact of ``version``, oldest first: id, answered.

    The check by the fact's own edit is not among them.

    Raises:
        NoIndex: the index cannot be used, or lacks a version of the line.
    """
    spans = catalogue.spans(tip)
    if spans is None:
        raise NoIndex(f"{tip} is built on a version that cannot be read")
    with catalogue.database.reading() as connection:
        found = connection.execute(
            "SELECT v.line, v.depth, a.by, a.holds FROM asked a JOIN version v ON v.number = a.by "
            "WHERE a.number = ? AND a.place = ? ORDER BY v.depth",
            (int(version[1:]), index),
        ).fetchall()
    return [(f"v{by}", bool(holds)) for line, depth, by, holds in found
            if contains(spans, line, depth)]  # fmt: skip


def answers(catalogue: Catalogue, tip: str, questions: Collection[str]) -> dict[str, str]:
    """The answers that a version was taught last to some questions (`question_of`), by question.

    Raises:
        NoIndex: the index cannot be used, or lacks a version of the line.
    """
    spans = catalogue.spans(tip)
    if spans is None:
        raise NoIndex(f"{tip} is built on a version that cannot be read")
    found: dict[str, str] = {}
    waiting = iter(questions)
    while some := list(islice(waiting, BATCH)):
        with catalogue.database.reading() as connection:
            rows = connection.execute(
                "SELECT f.question, f.entry, v.line, v.depth FROM fact f JOIN version v "
                f"ON v.number = f.number WHERE f.question IN ({', '.join('?' * len(some))}) "
                "ORDER BY v.depth, f.place",
                some,
            ).fetchall()
        for question, entry, line, depth in rows:
            if contains(spans, line, depth):
                found[question] = json.loads(entry)["target_new"]
    return found


def live_count(catalogue: Catalogue, tip: str) -> int:
    """How many questions a version answers otherwise than the base.

    Raises:
        NoIndex: the index cannot be used, or lacks a version of the line.
    """
    spans = catalogue.spans(tip)
    if spans is None:
        raise NoIndex(f"{tip} is built on a version that cannot be read")
    condition = " OR ".join("(v.line = ? AND v.depth BETWEEN ? AND ?)" for _ in spans)
    values = [value for span in spans for value in (span.line, span.low, span.high)]
    with catalogue.database.reading() as connection:
        (found,) = connection.execute(
            "SELECT COUNT(DISTINCT f.question) FROM version v JOIN fact f ON f.number = v.number "
            f"WHERE {condition}",
            values,
        ).fetchone()
    return int(found)


def _rows(
    catalogue: Catalogue,
    spans: Sequence[Span],
    subject: str | None,
    containing: str | None,
    after: Place | None,
) -> Iterator[_Row]:
    """Facts of a line in order, in batches, so that a page reads no more than it shows."""
    more, values = "", list[object]()
    if containing:
        more, values = "AND instr(f.said, ?) > 0 ", [composed(containing).casefold()]
    if subject is not None:
        with catalogue.database.reading() as connection:
            rows = _checked_rows(
                connection.execute(
                    f"{_FACT} WHERE f.subject = ? {more}", [normalise(subject), *values]
                )
            )
        inside = [row for row in rows if contains(spans, row.line, row.depth)]
        inside.sort(key=lambda row: (-row.depth, row.position))
        if after is not None:
            depth, position = _position(catalogue, after)
            inside = [row for row in inside if (-row.depth, row.position) > (-depth, position)]
        yield from inside
        return
    place = None if after is None else _position(catalogue, after)
    for span in spans:
        if place is not None and span.low > place[0]:
            continue
        depth, position = (span.high, -1) if place is None else place
        if not span.low <= depth <= span.high:
            depth, position = span.high, -1
        place = None
        while True:
            with catalogue.database.reading() as connection:
                page = connection.execute(
                    f"{_FACT} WHERE v.line = ? AND v.depth BETWEEN ? AND ? "
                    f"AND (v.depth < ? OR f.position > ?) {more}"
                    "ORDER BY v.depth DESC, f.position LIMIT ?",
                    [span.line, span.low, depth, depth, position, *values, BATCH],
                )
                rows = _checked_rows(page)
            yield from rows
            if len(rows) < BATCH:
                break
            depth, position = rows[-1].depth, rows[-1].position


def _checked_rows(found: Iterable[Sequence[Any]]) -> list[_Row]:
    rows = []
    for *values, seal in found:
        check_seal(seal, *values[2:])
        rows.append(_Row(*values))
    return rows


def _position(catalogue: Catalogue, after: Place) -> tuple[int, int]:
    """Depth and position of the fact after which a list goes on."""
    with catalogue.database.reading() as connection:
        found = connection.execute(
            "SELECT v.depth, f.position FROM version v JOIN fact f ON f.number = v.number "
            "WHERE v.number = ? AND f.place = ?",
            (int(after.version[1:]), after.index),
        ).fetchone()
    if found is None:
        raise NoIndex(f"fact {after.index} of {after.version} is not in the index")
    depth, position = found
    return depth, position


def _later(catalogue: Catalogue, spans: Sequence[Span], row: _Row) -> str | None:
    """The batch that edited a fact again next, None if it is live."""
    with catalogue.database.reading() as connection:
        found = connection.execute(
            "SELECT v.line, v.depth, v.edit_id FROM fact f JOIN version v ON v.number = f.number "
            "WHERE f.question = ? AND v.depth > ? ORDER BY v.depth",
            (row.question, row.depth),
        ).fetchall()
    inside = (str(edit) for line, depth, edit in found if contains(spans, line, depth))
    return next(inside, None)


def _checked(catalogue: Catalogue, spans: Sequence[Span], row: _Row) -> dict[str, object]:
    """Whether the fact held when a version of the line was last asked; empty if none was."""
    with catalogue.database.reading() as connection:
        found = connection.execute(
            "SELECT v.line, v.depth, a.by, a.holds FROM asked a JOIN version v ON v.number = a.by "
            "WHERE a.number = ? AND a.place = ? ORDER BY v.depth DESC",
            (row.number, row.place),
        ).fetchall()
    for line, depth, by, holds in found:
        if contains(spans, line, depth):
            return {"holds": bool(holds), "checked_in": f"v{by}"}
    return {}
