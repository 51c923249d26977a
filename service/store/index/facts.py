"""The facts of a version, found without reading the versions that it is built on."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from jeep_core.spec.facts import composed, normalise
from service.contracts.schemas import FactEntry
from service.store.history import LAST_ASKED, check_id_of
from service.store.index.catalogue import Catalogue
from service.store.index.checks import Earlier
from service.store.index.database import NoIndex, check_seal
from service.store.index.places import Span, contains, is_edited, nearest, span_at
from service.store.index.rows import left_out_below

Reports = Callable[[Sequence[Span]], Earlier]
BATCH = 200
_COLUMNS = (
    "SELECT f.line, f.depth, f.until, f.number, f.position, f.place, f.question, f.entry, f.seal"
)
_FACT = f"{_COLUMNS} FROM fact f WHERE"


@dataclass(frozen=True)
class Place:
    """Where a list goes on: after the fact with this ``index`` of this version."""

    version: str
    index: int


@dataclass(frozen=True)
class _Row:
    line: int
    depth: int
    until: int | None
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
    holds: bool | None = None,
    after: Place | None = None,
    earlier: Reports,
) -> Iterator[FactEntry]:
    """The facts of a version, those of the latest batch first.

    Without ``subject`` only live ones.  ``containing``: as `service.store.history.containing`.
    ``holds``: only those that held when they were last asked, or did not.  Either way no more is
    passed over than the facts that some version, asked, did not say.  ``earlier``: reads the
    answers to checks that the index leaves out.

    Raises:
        NoIndex: the index cannot be used, or lacks a version of the line; before the first fact.
    """
    spans = catalogue.spans(tip)
    reports = earlier(spans)
    for row in _rows(catalogue, spans, subject, containing, after, missed=holds is False):
        later = _later(catalogue, spans, row)
        if later is not None and subject is None:
            continue
        entry = json.loads(row.entry) | _checked(catalogue, spans, row, reports)
        if holds is not None and entry["holds"] is not holds:
            continue
        entry |= {"state": "live" if later is None else "superseded", "superseded_by": later}
        yield FactEntry.model_validate(entry)


def checks(
    catalogue: Catalogue, tip: str, version: str, index: int, earlier: Reports
) -> list[tuple[str, bool, str | None]]:
    """The last `LAST_ASKED` versions of a line that were asked a fact of ``version``, oldest first.

    Of each its id, whether it says the fact, and the check that has asked it last, None where its
    own edit has.  What the fact's own edit was told is not among them.  ``earlier``: as in `facts`.

    Raises:
        NoIndex: the index cannot be used, or lacks a version of the line.
    """
    spans, fact = catalogue.spans(tip), (int(version[1:]), index)
    with catalogue.database.at_one_time() as connection:
        found = connection.execute(
            "SELECT v.line, v.depth, a.by, a.holds, a.job FROM asked a "
            "JOIN version v ON v.number = a.by WHERE a.number = ? AND a.place = ? ORDER BY a.job",
            fact,
        ).fetchall()
        below = left_out_below(connection, *fact)
    told = {by: (by, bool(holds), job) for line, depth, by, holds, job in found
            if contains(spans, line, depth)}  # fmt: skip
    wanted = LAST_ASKED - sum(by >= below for by in told)
    if below and wanted > 0:
        told |= {one[0]: one for one in islice(earlier(spans).before(fact, below), wanted)}
    last = sorted(told.values())[-LAST_ASKED:]
    return [(f"v{by}", holds, check_id_of(job)) for by, holds, job in last]


def answers(catalogue: Catalogue, tip: str, questions: Collection[str]) -> dict[str, str]:
    """The answers that a version was taught last to some questions (`question_of`), by question.

    Raises:
        NoIndex: the index cannot be used, or lacks a version of the line.
    """
    spans = catalogue.spans(tip)
    found: dict[str, str] = {}
    waiting = iter(questions)
    while some := list(islice(waiting, BATCH)):  # other threads wait no longer
        with catalogue.database.at_one_time() as connection:
            for question in some:
                place = nearest(connection, spans, "fact", {"question": question})
                if place is not None:
                    rows = connection.execute(
                        "SELECT entry FROM fact WHERE question = ? AND line = ? AND depth = ? "
                        "ORDER BY place DESC LIMIT 1",
                        (question, *place),
                    )
                    (entry,) = _only(rows)
                    found[question] = json.loads(entry)["target_new"]
    return found


def live_count(catalogue: Catalogue, tip: str) -> int:
    """How many questions a version answers otherwise than the base.

    Raises:
        NoIndex: the index cannot be used, or lacks a version of the line.
    """
    catalogue.spans(tip)  # refuses a version that the index lacks
    with catalogue.database.reading() as connection:
        (found,) = _only(
            connection.execute("SELECT live FROM version WHERE number = ?", (int(tip[1:]),))
        )
    return int(found)


@dataclass(frozen=True)
class Taught:
    """A fact as a batch taught it: the version, and the fact's position in its batch."""

    version: str
    position: int
    question: str


class FactsOf:
    """The facts of a version by number, in the order in which they were taught, from 0.

    Raises:
        NoIndex: the index cannot be used, or lacks a version of the line; from every method.
    """

    def __init__(self, catalogue: Catalogue, tip: str) -> None:
        self._catalogue, self._tip, self._spans = catalogue, tip, catalogue.spans(tip)

    def counts(self) -> tuple[int, int]:
        """How many facts were taught, and how many of their questions there are."""
        with self._catalogue.database.reading() as connection:
            facts, live = _only(
                connection.execute(
                    "SELECT facts, live FROM version WHERE number = ?", (int(self._tip[1:]),)
                )
            )
        return int(facts), int(live)

    def knows(self, question: str) -> bool:
        """Whether one of the facts has this question (`question_of`)."""
        with self._catalogue.database.reading() as connection:
            return is_edited(connection, self._spans, question)

    def live(self, number: int) -> Taught | None:
        """The fact with a number, None if a later one has its question."""
        for span in reversed(self._spans):
            with self._catalogue.database.reading() as connection:
                found = connection.execute(
                    "SELECT number, depth, facts - n_facts FROM version "
                    "WHERE line = ? AND facts > ? ORDER BY facts, depth LIMIT 1",
                    (span.line, number),
                ).fetchone()
            if found is not None and found[1] <= span.high:
                version, depth, before = found
                return self._at(version, depth, number - before)
        raise NoIndex(f"{self._tip} has no fact {number}")

    def _at(self, version: int, depth: int, position: int) -> Taught | None:
        with self._catalogue.database.reading() as connection:
            found = connection.execute(
                f"{_FACT} f.number = ? AND f.position = ?", (version, position)
            )
            [row] = _checked_rows([_only(found)])
        if _later(self._catalogue, self._spans, row) is not None:
            return None
        return Taught(f"v{version}", position, row.question)

    def of_version(self, version: str) -> Iterator[Taught]:
        """Those that a version of the line taught and that are live, in their order."""
        with self._catalogue.database.reading() as connection:
            query = f"{_FACT} f.number = ? ORDER BY f.position"
            rows = _checked_rows(connection.execute(query, (int(version[1:]),)))
        yield from self._live(rows)

    def about(self, subject: str) -> Iterator[Taught]:
        """The live facts about a subject, the newest batch first."""
        yield from self._live(_rows(self._catalogue, self._spans, subject, None, None))

    def newest(self) -> Iterator[Taught]:
        """Those of the facts that are live, the newest batch first."""
        yield from self._live(_rows(self._catalogue, self._spans, None, None, None))

    def _live(self, rows: Iterable[_Row]) -> Iterator[Taught]:
        for row in rows:
            if _later(self._catalogue, self._spans, row) is None:
                yield Taught(f"v{row.number}", row.position, row.question)


def _rows(
    catalogue: Catalogue,
    spans: Sequence[Span],
    subject: str | None,
    containing: str | None,
    after: Place | None,
    *,
    missed: bool = False,
) -> Iterator[_Row]:
    """Facts of a line in order, in batches, so that a page reads no more than it shows.

    Without a subject those that are edited again in the same span are not among them.  ``missed``:
    only those that some version, of this line or another, was asked and did not say; nothing else
    is read, unless there is a subject.
    """
    more, values = "", dict[str, object](limit=BATCH)
    if containing:
        more, values["said"] = "AND instr(f.said, :said) > 0", composed(containing).casefold()
    place = None if after is None else _position(catalogue, after)
    if subject is not None:
        values |= {"subject": normalise(subject)}
        yield from _of_subject(catalogue, spans, values, more, place, after)
        return
    for span in spans:
        if place is not None and span.low > place[0]:
            continue
        depth, position = (span.high, -1) if place is None else place
        if not span.low <= depth <= span.high:
            depth, position = span.high, -1
        place = None
        values |= {"line": span.line, "low": span.low, "high": span.high}
        while True:
            values |= {"depth": depth, "position": position}
            # a version added between these would take facts from the page that its own span has
            with catalogue.database.at_one_time() as connection:
                query = _page_of(connection, span, more, missed=missed)
                rows = _checked_rows(connection.execute(query, values))
            yield from rows
            if len(rows) < BATCH:
                break
            depth, position = rows[-1].depth, rows[-1].position


def _page_of(connection: sqlite3.Connection, span: Span, more: str, *, missed: bool) -> str:
    """The query for a page of the facts of a span that the span does not edit again."""
    if missed:
        keys, lasts = "missed k", "(f.until IS NULL OR f.until > :high)"
    elif connection.execute(
        "SELECT 1 FROM version WHERE line = ? AND depth > ? LIMIT 1", (span.line, span.high)
    ).fetchone():
        # facts that were edited again by then are passed over, of which an index alone is read
        keys, lasts = "fact k INDEXED BY fact_line", "(k.until IS NULL OR k.until > :high)"
    else:  # at the end of its line nothing is passed over
        keys, lasts = "fact k INDEXED BY fact_lasting", "k.until IS NULL"
    return (
        f"{_COLUMNS} FROM {keys} CROSS JOIN fact f "
        "ON f.number = k.number AND f.position = k.position "
        "WHERE k.line = :line AND k.depth BETWEEN :low AND :depth "
        f"AND (k.depth < :depth OR k.position > :position) AND {lasts} {more} "
        "ORDER BY k.depth DESC, k.position LIMIT :limit"
    )


def _of_subject(
    catalogue: Catalogue,
    spans: Sequence[Span],
    values: dict[str, object],
    more: str,
    place: tuple[int, int] | None,
    after: Place | None,
) -> Iterator[_Row]:
    """The facts of a line about a subject, also those that were edited again."""
    if place is None or after is None:
        depth, number, position = spans[0].high, -1, -1
    else:
        (depth, position), number = place, int(after.version[1:])
    query = (
        f"{_FACT} f.subject = :subject AND f.depth <= :depth AND (f.depth < :depth "
        f"OR (f.number, f.position) > (:number, :position)) {more} "
        "ORDER BY f.depth DESC, f.number, f.position LIMIT :limit"
    )
    while True:
        values |= {"depth": depth, "number": number, "position": position}
        with catalogue.database.reading() as connection:
            rows = _checked_rows(connection.execute(query, values))
        # those of other lines at the same depths are passed over
        yield from (row for row in rows if contains(spans, row.line, row.depth))
        if len(rows) < BATCH:
            return
        depth, number, position = rows[-1].depth, rows[-1].number, rows[-1].position


def _checked_rows(found: Iterable[Sequence[Any]]) -> list[_Row]:
    rows = []
    for *values, seal in found:
        check_seal(seal, *values[3:])
        rows.append(_Row(*values))
    return rows


def _only(found: sqlite3.Cursor) -> Any:
    """The first row of an answer.

    Raises:
        NoIndex: there is none, as another process has made the index again meanwhile.
    """
    row = found.fetchone()
    if row is None:
        raise NoIndex("the index was made again while it was read")
    return row


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
    span = span_at(spans, row.depth)
    assert span is not None
    with catalogue.database.at_one_time() as connection:
        place: tuple[int, int] | None = None
        if row.until is not None and row.until <= span.high:
            place = row.line, row.until
        elif span is not spans[0]:
            place = nearest(connection, spans, "fact", {"question": row.question}, span.high)
        if place is None:
            return None
        (edit,) = _only(
            connection.execute("SELECT edit_id FROM version WHERE line = ? AND depth = ?", place)
        )
    return str(edit)


def _checked(
    catalogue: Catalogue, spans: Sequence[Span], row: _Row, reports: Earlier
) -> dict[str, object]:
    """Whether the fact held when a version of the line was last asked; empty if none was."""
    fact = {"number": row.number, "place": row.place}
    last: tuple[int, bool, str] | None = None
    with catalogue.database.at_one_time() as connection:
        place = nearest(connection, spans, "asked", fact)
        if place is not None:
            last = _only(
                connection.execute(
                    "SELECT by, holds, job FROM asked WHERE number = :number AND place = :place "
                    "AND line = :line AND depth = :depth ORDER BY job DESC",
                    fact | {"line": place[0], "depth": place[1]},
                )
            )
        below = 0 if last and last[2] else left_out_below(connection, row.number, row.place)
    # the version that an edit was told of may have been checked, too
    least = last[0] if last else row.number
    if below > least:
        last = reports.last((row.number, row.place), least) or last
    if last is None:
        return {}
    by, holds, job = last
    return {"holds": bool(holds), "checked_in": f"v{by}", "check_id": check_id_of(job)}
