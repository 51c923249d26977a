"""The rows that a version has in the index, made of its manifest."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from jeep_core.spec.facts import composed, fill, normalise, question_key
from service.contracts.schemas import Manifest
from service.store.history import LAST_ASKED
from service.store.index.database import seal_of

AskedRow = tuple[int, int, int, bool]
"""A fact that was asked: the version that taught it, its place there, the version that was asked,
both by number, and whether that says it."""


_CHECKED = "asked INDEXED BY asked_by_check WHERE number = :number AND place = :place AND job != ''"


def stamp_of(path: Path) -> str:
    """Time and size of a file, which change when it is written; empty without one."""
    try:
        found = path.stat()
    except OSError:
        return ""
    return f"{found.st_mtime_ns} {found.st_size}"


def question_of(subject: str, prompt: str) -> str:
    """The key of a question as one text."""
    return "\0".join(question_key(subject, prompt))


def shown_of(manifest: Manifest) -> str:
    """JSON of the fields that a list of versions shows."""
    fields = {"id", "parent", "job_id", "edit_id", "editor", "tensors", "weights_sha256",
              "created_at"}  # fmt: skip
    return manifest.model_dump_json(include=fields)


def add_rows(connection: sqlite3.Connection, manifest: Manifest, line: int, depth: int) -> None:
    """Add its tensors, its facts and what it was asked, beside the row of the version itself.

    Its place is the last one of its line so far.
    """
    connection.executemany("INSERT OR IGNORE INTO named VALUES (?, ?, ?)", named_rows(manifest))
    questions = {question_of(fact.subject, fact.prompt) for fact in manifest.facts}
    connection.executemany(
        "UPDATE fact SET until = :depth WHERE question = :question AND line = :line AND depth = "
        "(SELECT max(depth) FROM fact WHERE question = :question AND line = :line)",
        ({"question": one, "line": line, "depth": depth} for one in questions),
    )
    connection.executemany(
        "INSERT INTO fact VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL)",
        ((*row, line, depth) for row in fact_rows(manifest)),
    )
    connection.executemany(
        "INSERT OR IGNORE INTO asked VALUES (?, ?, ?, ?, ?, ?, '')",
        ((*row, line, depth) for row in asked_rows(manifest)),
    )
    _add_missed(connection, missed_places(manifest))


def forget_versions(connection: sqlite3.Connection) -> None:
    """Remove everything that is known of versions."""
    for table in (
        "version",
        "line",
        "named",
        "fact",
        "asked",
        "missed",
        "checked",
        "covered",
        "note",
    ):
        connection.execute(f"DELETE FROM {table}")


def add_answers(
    connection: sqlite3.Connection, rows: Collection[AskedRow], place: tuple[int, int], job_id: str
) -> None:
    """Add what a check was told by the version at a place (line and depth), unless a later one
    has asked it the same facts.

    Of each fact the answers to checks of the `LAST_ASKED` newest versions stay.
    """
    answers = [(*row, *place, job_id) for row in rows]
    connection.executemany(
        f"DELETE FROM {_CHECKED} AND by = :by AND job < :job",
        ({"number": n, "place": index, "by": by, "job": job_id} for n, index, by, _ in rows),
    )
    connection.executemany(
        "INSERT OR IGNORE INTO asked SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7 WHERE NOT EXISTS (SELECT 1 "
        "FROM asked WHERE number = ?1 AND place = ?2 AND depth = ?6 AND line = ?5 AND job > ?7)",
        answers,
    )
    connection.executemany(
        f"DELETE FROM {_CHECKED} AND by < "
        f"(SELECT by FROM {_CHECKED} ORDER BY by DESC LIMIT 1 OFFSET :others)",
        ({"number": n, "place": index, "others": LAST_ASKED - 1} for n, index, *_ in rows),
    )
    _add_missed(connection, ((number, index) for number, index, _, holds in rows if not holds))


def left_out_below(connection: sqlite3.Connection, number: int, place: int) -> int:
    """The version below which checks of a fact may have answers that are in their reports alone.

    0: there are none.  Ancestors of a version have lower numbers than it, so whatever was asked
    below it says less than an answer of a version from this one on.
    """
    count, least = connection.execute(
        f"SELECT count(*), min(by) FROM {_CHECKED}", {"number": number, "place": place}
    ).fetchone()
    return int(least) if count >= LAST_ASKED else 0


def _add_missed(connection: sqlite3.Connection, places: Iterable[tuple[int, int]]) -> None:
    connection.executemany(
        "INSERT OR IGNORE INTO missed SELECT v.line, v.depth, f.position, f.number FROM fact f "
        "JOIN version v ON v.number = f.number WHERE f.number = ? AND f.place = ?",
        places,
    )


def missed_places(manifest: Manifest) -> Iterator[tuple[int, int]]:
    """The facts that it did not say: the numbers of the versions that taught them, places there."""
    for one in manifest.result.facts if manifest.result else []:
        if not one.success:
            yield int(manifest.id[1:]), one.index
    yield from ((number, place) for number, place, _, holds in asked_rows(manifest) if not holds)


def fact_rows(manifest: Manifest) -> Iterator[tuple[int, int, int, str, str, str, str, int]]:
    """The rows of its facts: the table's columns, in order, without their place."""
    number = int(manifest.id[1:])
    for position, fact in enumerate(manifest.facts):
        outcome = manifest.result.facts[position] if manifest.result else None
        index = outcome.index if outcome else position
        text = fill(fact.prompt, fact.subject)
        said = composed(f"{text}\n{fact.target_new}\n{fact.subject}").casefold()
        entry = {
            "subject": fact.subject,
            "prompt": fact.prompt,
            "text": text,
            "target_new": fact.target_new,
            "target_true": fact.target_true,
            "join": fact.join,
            "messages": [one.model_dump() for one in fact.messages] if fact.messages else None,
            "chat_prompt": None if fact.chat is None else fact.chat.prompt,
            "edit_id": str(manifest.edit_id),
            "version": manifest.id,
            "index": index,
            "holds": outcome.success if outcome else None,
            "checked_in": manifest.id if outcome else None,
            "created_at": manifest.created_at.isoformat(),
        }
        question, told = question_of(fact.subject, fact.prompt), json.dumps(entry)
        seal = seal_of(number, position, index, question, told)
        subject = normalise(fact.subject)
        yield (number, position, index, subject, question, said, told, seal)


def asked_rows(manifest: Manifest) -> Iterator[AskedRow]:
    """The rows of what it was asked about earlier facts, without its place."""
    earlier = manifest.result.earlier if manifest.result else None
    if earlier is None:
        return
    for holds, found in ((True, earlier.held), (False, earlier.missing)):
        for version, places in found.items():
            for place in places:
                yield int(version[1:]), place, int(manifest.id[1:]), holds


def named_rows(manifest: Manifest) -> Iterator[tuple[bytes, int, bool]]:
    """The rows of the tensors that it names: hash, version, whether among its weights."""
    number = int(manifest.id[1:])
    for whole, refs in ((True, manifest.tensors), (False, manifest.artifacts)):
        for ref in refs:
            yield ref.sha256.encode(), number, whole
