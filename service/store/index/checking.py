"""The index compared with the records that it was made of."""

from __future__ import annotations

import heapq
import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from service.contracts.schemas import Manifest
from service.store.errors import CorruptFile, UnknownJob, UnknownVersion
from service.store.history import LAST_ASKED
from service.store.index.database import seal_of
from service.store.index.places import is_edited, spans_of
from service.store.index.rows import (
    asked_rows,
    fact_rows,
    missed_places,
    named_rows,
    question_of,
    shown_of,
    stamp_of,
)
from service.store.store import Store

COLUMNS = {"fact": "number, position, place, subject, question, said, entry, seal, line, depth"}
"""Of tables that have others beside those that a version's manifest tells."""


def difference(store: Store) -> str | None:
    """The first place at which the index differs from the manifests, None if it does not.

    Raises:
        NoIndex: the index cannot be used.
    """
    store.checks.catch_up()
    known: dict[int, tuple[Any, ...]] = {}
    unread = False
    with store.catalogue.database.at_one_time() as connection:
        checks, missed = _checks(store, connection)
        unsure, stays = None in checks.values(), _oldest_that_stays(checks)
        lines = {one: (a, b) for one, a, b in connection.execute("SELECT * FROM line")}
        for row in connection.execute("SELECT * FROM version ORDER BY number").fetchall():
            known[row[0]] = row
            try:
                manifest = store.versions.parsed(f"v{row[0]}")
            except (CorruptFile, UnknownVersion):
                unread = True
                continue
            told = checks.pop(row[0], {})
            unread = unread or told is None
            missed.update(missed_places(manifest))
            above = known.get(int(manifest.parent[1:])) if manifest.parent else None
            if not _is_placed(row, above, lines):
                return f"{manifest.id} stands elsewhere"
            stamp = stamp_of(store.root / "versions" / manifest.id / "manifest.json")
            if row != _expected(connection, row, manifest, above, stamp):
                return f"the row of {manifest.id} differs"
            place = row[1:3]
            for table, column, rows in (
                ("fact", "number", ((*one, *place) for one in fact_rows(manifest))),
                ("asked", "by", _asked(manifest, told or {}, place)),
                ("named", "number", named_rows(manifest)),
            ):
                if table == "asked" and told is None:
                    continue
                columns, expected = COLUMNS.get(table, "*"), set(rows)
                found = set(
                    connection.execute(f"SELECT {columns} FROM {table} WHERE {column} = ?", row[:1])
                )
                if table == "asked" and unsure and found <= expected:
                    continue  # answers that cannot be read may have pushed others out
                if table == "asked":
                    expected = {one for one in expected if _stays(one, stays)}
                if found != expected:
                    return f"rows of {manifest.id} in {table} differ"
        places = connection.execute(
            "SELECT f.number, f.place FROM missed m JOIN version v USING (line, depth, number) "
            "JOIN fact f USING (number, position)"
        ).fetchall()
        (count,) = connection.execute("SELECT count(*) FROM missed").fetchone()
        if len(places) != count or missed - set(places) or (set(places) - missed and not unread):
            return "rows in missed differ"
        wrong = connection.execute(
            "SELECT f.number FROM fact f WHERE f.until IS NOT (SELECT min(g.depth) FROM fact g "
            "WHERE g.question = f.question AND g.line = f.line AND g.depth > f.depth)"
        ).fetchone()
        if wrong is not None:
            return f"facts of v{wrong[0]} are edited again elsewhere"
    return None


Told = dict[tuple[int, int], tuple[bool, str]]
"""Whether facts hold, by number of the version that taught each and its place, and who says it."""


def _checks(
    store: Store, connection: sqlite3.Connection
) -> tuple[dict[int, Told | None], set[tuple[int, int]]]:
    """The findings of the checks in the index, by the number of the version that was asked, and
    the facts that one of them, whether or not the newest of a version, was not told.

    None where the record or the report of one cannot be read.
    """
    found: dict[int, Told | None] = {}
    missed = set[tuple[int, int]]()
    query = "SELECT job, number FROM checked WHERE number IS NOT NULL ORDER BY job"
    for job_id, number in connection.execute(query).fetchall():
        try:
            rows = store.checks.rows(store.journal.read(job_id))
        except (CorruptFile, UnknownJob):
            rows = None
        missed.update((one, place) for one, place, _, holds in rows or () if not holds)
        told = found.setdefault(number, {})
        if rows is None or told is None:
            found[number] = None
        else:
            told.update({(one, place): (holds, job_id) for one, place, _, holds in rows})
    return found, missed


def _oldest_that_stays(checks: dict[int, Told | None]) -> dict[tuple[int, int], int]:
    """Of each fact the oldest version whose answer to a check is in the index."""
    asked = defaultdict[tuple[int, int], list[int]](list)
    for number, told in checks.items():
        for fact in told or ():
            asked[fact].append(number)
    return {fact: heapq.nlargest(LAST_ASKED, numbers)[-1] for fact, numbers in asked.items()}


def _stays(row: tuple[Any, ...], stays: dict[tuple[int, int], int]) -> bool:
    """Whether a row of what was asked is in the index: by an edit, or by a check that is."""
    number, place, by, *_, job = row
    return not job or by >= stays[number, place]


def _asked(manifest: Manifest, told: Told, place: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    """The rows of what a version was asked: by its edit, and later by a check."""
    for one in asked_rows(manifest):
        yield (*one, *place, "")
    for fact, (holds, job_id) in told.items():
        yield (*fact, int(manifest.id[1:]), holds, *place, job_id)


def _is_placed(
    row: tuple[Any, ...], above: tuple[Any, ...] | None, lines: dict[int, tuple[Any, Any]]
) -> bool:
    """Whether a version continues its parent's line, or begins one of its own there."""
    if above is None:
        return True
    number, line, depth = row[:3]
    parent_line, parent_depth = above[1:3]
    follows = (line, depth) == (parent_line, parent_depth + 1)
    begins = (line, depth) == (number, parent_depth + 1)
    return follows or (begins and lines.get(line) == (parent_line, parent_depth))


def _expected(
    connection: sqlite3.Connection,
    row: tuple[Any, ...],
    manifest: Manifest,
    above: tuple[Any, ...] | None,
    stamp: str,
) -> tuple[Any, ...]:
    """The row of a version by its manifest, at the place where it is."""
    number, line, depth = row[:3]
    facts, live = (above[8], above[9]) if above else (0, 0)
    if above:
        spans = spans_of(connection, above[0]) or []
        questions = {question_of(fact.subject, fact.prompt) for fact in manifest.facts}
        live += sum(1 for one in questions if not is_edited(connection, spans, one))
    count = len(manifest.facts)
    staged, shown = int(manifest.staged), shown_of(manifest)
    seal = seal_of(number, line, depth, staged, count, shown)
    made = (manifest.job_id, manifest.edit_id, stamp, staged, count, facts + count, live)
    return (number, line, depth, *made, shown, seal)
