"""Versions that were head, or that a head was built on, kept up with the reflog."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Mapping
from pathlib import Path

from service.store.head import moved_to
from service.store.index.catalogue import Catalogue
from service.store.index.database import NoIndex
from service.store.index.places import Span

_NOTE = "reflog"


class Committed:
    """How far each line of versions is covered by moves of head."""

    def __init__(self, root: Path, catalogue: Catalogue) -> None:
        self._reflog, self._catalogue = root / "reflog.jsonl", catalogue

    def covered(self, head: str) -> Mapping[int, int]:
        """By line, the depth up to which versions are committed, where ``head`` is head now.

        Lines of the reflog that cannot be read are passed over.  So are versions that the index
        lacks: nobody can say what a damaged one was built on.

        Raises:
            NoIndex: the index cannot be used.
        """
        whole = self._catalogue.up_to_date()
        try:
            text = self._reflog.read_bytes()
        except OSError as error:
            raise NoIndex(f"{self._reflog} cannot be read: {error.strerror}") from None
        end = text.rfind(b"\n") + 1
        with self._catalogue.database.reading() as connection:
            known = dict(connection.execute("SELECT line, depth FROM covered"))
            noted = _noted(connection)
        start = _resumed(text, noted)
        if start == 0:
            known = {}
        fresh = [moved_to(line) for line in text[start:end].split(b"\n") if line]
        changed = self._cover(known, [tip for tip in fresh if tip is not None])
        if end > start and whole:  # moves to what is left out must be looked at again
            note = json.dumps({"end": end, "sha256": _last_line(text, end)})
            with self._catalogue.database.writing() as connection:
                # the index may have been made again meanwhile: then what was known is not in it
                if _noted(connection) == noted:
                    _keep(connection, changed if start else known, note, whole=start == 0)
        return self._with_head(known, head)

    def _cover(self, known: dict[int, int], tips: list[str]) -> dict[int, int]:
        """Add the ancestors of ``tips`` to ``known``; returns what has changed."""
        changed: dict[int, int] = {}
        for tip in dict.fromkeys(tips):
            for span in self._spans(tip):
                if known.get(span.line, -1) >= span.high:
                    break  # and so are all that it is built on
                known[span.line] = changed[span.line] = span.high
        return changed

    def _with_head(self, known: dict[int, int], head: str) -> dict[int, int]:
        """Head's line of the reflog may not be written yet."""
        found = dict(known)
        self._cover(found, [head])
        return found

    def _spans(self, tip: str) -> list[Span]:
        try:
            return self._catalogue.spans(tip)
        except NoIndex:  # it was moved aside, and nobody can say what it was built on
            return []


def is_committed(covered: Mapping[int, int], line: int, depth: int) -> bool:
    """Whether the version at a place was head, or is what a head was built on."""
    return depth <= covered.get(line, -1)


def _noted(connection: sqlite3.Connection) -> str | None:
    found = connection.execute("SELECT value FROM note WHERE name = ?", (_NOTE,)).fetchone()
    return str(found[0]) if found else None


def _resumed(text: bytes, noted: str | None) -> int:
    """Where to go on in the reflog; 0 if it is not the one that was read before."""
    if noted is None:
        return 0
    known = json.loads(noted)
    end = int(known["end"])
    return end if end <= len(text) and _last_line(text, end) == known["sha256"] else 0


def _last_line(text: bytes, end: int) -> str:
    start = text.rfind(b"\n", 0, max(0, end - 1)) + 1
    return hashlib.sha256(text[start:end]).hexdigest()


def _keep(
    connection: sqlite3.Connection, covered: Mapping[int, int], note: str, *, whole: bool
) -> None:
    if whole:
        connection.execute("DELETE FROM covered")
    connection.executemany(
        "INSERT INTO covered VALUES (?, ?) "
        "ON CONFLICT (line) DO UPDATE SET depth = max(depth, excluded.depth)",
        covered.items(),
    )
    connection.execute("INSERT OR REPLACE INTO note VALUES (?, ?)", (_NOTE, note))
