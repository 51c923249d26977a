"""Where every version stands, kept up with the folder of versions.

Versions form a tree.  It is cut into *lines*: a version that is the first child of its parent
continues the parent's line, any other begins a line of its own.  A version's ancestors are then a
few spans (a line and a range of depths), whatever their number.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from service.contracts.schemas import Manifest
from service.store.errors import CorruptFile, UnknownVersion
from service.store.files import STEP_NS
from service.store.index.database import Database, NoIndex, check_seal, seal_of
from service.store.index.names import VersionNames
from service.store.index.places import Span, contains, is_edited, spans_of
from service.store.index.rows import add_rows, forget_versions, question_of, shown_of, stamp_of
from service.store.versions import Lost, Versions, of_one_file

AT_ONCE = 200
"""Versions that are added in one transaction: others wait no longer."""
KEPT_SPANS = 64
UNREAD = "unread"
"""Stamp of a manifest that could not be read: no file has it, so it is tried again each time."""


@dataclass(frozen=True)
class Row:
    """A version as the index has it: ``shown`` is JSON, ``line`` and ``depth`` its place."""

    number: int
    line: int
    depth: int
    staged: bool
    n_facts: int
    shown: str


class Catalogue:
    """The versions of a store, found without reading their manifests (``store.catalogue``)."""

    def __init__(self, root: Path, versions: Versions, database: Database) -> None:
        self._folder, self._versions, self.database = root / "versions", versions, database
        self._names = VersionNames(root, versions)
        self._seen: tuple[int, int] | None = None
        self._spans: dict[int, list[Span]] = {}
        # versions that are damaged, or built on one that is, with the stamps of their files
        self._left_out: dict[int, str] = {}
        self._lock = threading.RLock()

    def up_to_date(self) -> bool:
        """Add what was written since the last call; False if some are left out, as `beside` says.

        Raises:
            NoIndex: the index cannot be used.
        """
        with self._lock:
            self._catch_up()
            return not self._left_out

    def _catch_up(self) -> None:
        changed = self._folder.stat().st_mtime_ns
        with self.database.reading():
            seen = (changed, self.database.generation)  # of a file that is there
        if self._seen is None or self._seen[1] != seen[1]:
            self._spans.clear()
        if seen == self._seen:
            # a manifest that could not be read may have been mended where it lies
            if any(stamp_of(self._manifest(n)) != stamp for n, stamp in self._left_out.items()):
                self._add({*self._left_out})
            return
        if not self._added_new(changed):
            self._compare(changed)
        settled = time.time_ns() - changed > STEP_NS
        # a file that was made meanwhile is a generation later
        self._seen = (changed, self.database.generation) if settled else None

    def _added_new(self, changed: int) -> bool:
        """Add versions that were written since; False if the folder must be listed."""
        new = self._names.new(changed, self.database.generation)
        if new is None:
            return False
        marks = ", ".join("?" * len(new))
        with self.database.reading() as connection:
            rows = connection.execute(
                f"SELECT number FROM version WHERE number IN ({marks})", [*new]
            ).fetchall()
        others = {number for (number,) in rows}  # another process has added these
        generation, self._names.generation = self._names.generation, -1
        self._add({*self._left_out} | (new - others))  # where it fails, the folder is listed
        self._names.generation = generation
        return generation == self.database.generation

    def _compare(self, changed: int) -> None:
        """Compare the index with the names of all versions."""
        self._names.generation = -1  # where this fails, the folder is listed again
        there = self._names.every(changed)
        with self.database.reading() as connection:
            known = {number for (number,) in connection.execute("SELECT number FROM version")}
        if known - there:  # moved aside by a repair: lines may end elsewhere now
            self.forget()
            known = set()
        self._left_out = {}
        self._add(there - known)
        self._names.generation = self.database.generation

    def spans(self, version: str) -> list[Span]:
        """The ancestors of a version and itself, from it down to the base.

        Raises:
            NoIndex: the index cannot be used, or lacks the version or one that it is built on, as
                its manifest is damaged.
        """
        with self._lock:
            self._catch_up()
            number = int(version[1:])
            found = self._spans.get(number)
            if found is None:
                with self.database.reading() as connection:
                    found = spans_of(connection, number)
                if found is None:
                    raise NoIndex(f"{version} is built on a version that cannot be read")
                while len(self._spans) >= KEPT_SPANS:
                    del self._spans[next(iter(self._spans))]
                self._spans[number] = found
            return found

    def whole(self) -> None:
        """As `up_to_date`, for what is asked of all versions.

        Raises:
            NoIndex: the index cannot be used, or lacks a version, so that it would say too little.
        """
        with self._lock:
            self._catch_up()
            if self._left_out:
                numbers = ", ".join(f"v{number}" for number in sorted(self._left_out)[:3])
                raise NoIndex(
                    f"the index lacks {numbers}, which cannot be read, or are built on such"
                )

    def beside(self) -> list[Manifest]:
        """The versions that the index lacks, as far as they can be read, oldest first.

        They are built on a damaged one.

        Raises:
            NoIndex: the index cannot be used.
            OSError: one cannot be read now.
        """
        with self._lock:
            self._catch_up()
            found = [f"v{number}" for number in sorted(self._left_out)]
        return [self._versions.read(one) for one in found if self._versions.is_readable(one)]

    def children(self, version: str) -> list[str]:
        """The versions that are built on one, by number.

        Raises:
            NoIndex: the index cannot be used, or lacks it.
        """
        self.whole()
        spans = self.spans(version)
        line, depth = spans[0].line, spans[0].high
        with self.database.reading() as connection:
            found = connection.execute(
                "SELECT number FROM version WHERE depth = ? AND (line = ? OR line IN "
                "(SELECT id FROM line WHERE parent = ? AND fork = ?)) ORDER BY number",
                (depth + 1, line, line, depth),
            ).fetchall()
        return [f"v{number}" for (number,) in found]

    def since_fork(self, a: str, b: str) -> tuple[str, list[str], list[str]]:
        """The last version that two are both built on, or are; those since then, oldest first.

        Raises:
            NoIndex: the index cannot be used, or lacks one of them.
        """
        spans_a, spans_b = self.spans(a), self.spans(b)
        line, depth = 0, 0
        for one, other in zip(reversed(spans_a), reversed(spans_b), strict=False):
            if one.line != other.line:
                break
            line, depth = one.line, min(one.high, other.high)
            if one.high != other.high:
                break
        with self.database.reading() as connection:
            (shared,) = connection.execute(
                "SELECT number FROM version WHERE line = ? AND depth = ?", (line, depth)
            ).fetchone()
            own = [
                [
                    f"v{number}"
                    for span in reversed(spans)
                    for (number,) in connection.execute(
                        "SELECT number FROM version WHERE line = ? AND depth BETWEEN ? AND ? "
                        "ORDER BY depth",
                        (span.line, max(span.low, depth + 1), span.high),
                    )
                ]
                for spans in (spans_a, spans_b)
            ]
        return f"v{shared}", own[0], own[1]

    def newest(
        self, before: int | None, count: int, *, partly: bool = False
    ) -> tuple[list[Row], dict[int, Lost]]:
        """The next versions of a list, newest first, and those without a manifest to be shown.

        ``before``: only those with a lower number.  ``partly``: also where it lacks some: `beside`.

        Raises:
            NoIndex: the index cannot be used, or lacks a version.
        """
        if not partly:
            self.whole()
        limit = 2**63 - 1 if before is None else before
        with self.database.reading() as connection:
            rows = connection.execute(
                "SELECT number, line, depth, staged, n_facts, shown, seal, stamp FROM version "
                "WHERE number < ? ORDER BY number DESC LIMIT ?",
                (limit, count),
            ).fetchall()
            for *shown, seal, _ in rows:
                check_seal(seal, *shown)
        lost: dict[int, Lost] = {}
        for number, *_, stamp in rows:
            as_indexed = stamp == stamp_of(self._manifest(number))
            look = self._versions.denied if as_indexed else self._versions.lost
            if (why := look(f"v{number}")) is not None:
                lost[number] = why
        whole = [Row(n, line, d, bool(s), k, shown) for n, line, d, s, k, shown, *_ in rows]
        return [row for row in whole if row.number not in lost], lost

    def stamps(self) -> dict[int, str]:
        """The stamps of the manifests that were read for the index, by the version's number.

        Raises:
            NoIndex: the index cannot be used, or lacks a version.
        """
        self.whole()
        with self.database.reading() as connection:
            return dict(connection.execute("SELECT number, stamp FROM version"))

    def staged(self) -> list[Row]:
        """Those that it has of the versions written without becoming head, oldest first.

        Raises:
            NoIndex: the index cannot be used.
        """
        self.up_to_date()
        with self.database.reading() as connection:
            rows = connection.execute(
                "SELECT number, line, depth, staged, n_facts, shown FROM version "
                "WHERE staged ORDER BY number"
            ).fetchall()
        return [Row(n, line, d, bool(s), k, shown) for n, line, d, s, k, shown in rows]

    def weights(self) -> dict[int, list[str]]:
        """The hashes of the tensors of every version, by its number, oldest first.

        Raises:
            NoIndex: the index cannot be used, or lacks a version.
        """
        self.whole()
        found: dict[int, list[str]] = {}
        with self.database.reading() as connection:
            rows = connection.execute("SELECT number, sha256 FROM named WHERE whole")
            for number, sha256 in rows:
                found.setdefault(number, []).append(sha256.decode())
        return {number: found[number] for number in sorted(found)}

    def named(self) -> set[bytes]:
        """The hashes of all tensors that versions name; raises as `naming`."""
        self.whole()
        with self.database.reading() as connection:
            return {sha256 for (sha256,) in connection.execute("SELECT sha256 FROM named")}

    def naming(self, sha256: str) -> Iterator[tuple[int, bool]]:
        """Those that it has of the versions that name a tensor, and whether among their weights.

        Raises:
            NoIndex: the index cannot be used.
        """
        self.up_to_date()
        with self.database.reading() as connection:
            rows = connection.execute(
                "SELECT number, whole FROM named WHERE sha256 = ? ORDER BY number DESC",
                (sha256.encode(),),
            ).fetchall()
        return iter([(number, bool(whole)) for number, whole in rows])

    def of_job(self, job_id: str) -> Manifest | None:
        """The newest version that a job has written, None if there is none that can be read.

        Raises:
            NoIndex: the index cannot be used.
        """
        others = {int(one.id[1:]) for one in self.beside() if one.job_id == job_id}
        with self.database.reading() as connection:
            found = connection.execute("SELECT number FROM version WHERE job_id = ?", (job_id,))
            numbers = others.union(number for (number,) in found)
        for number in sorted(numbers, reverse=True):
            try:
                return self._versions.read(f"v{number}")
            except (CorruptFile, UnknownVersion):
                continue
        return None

    def of_edit(self, edit_id: str, tip: str) -> str | None:
        """The version among the ancestors of ``tip`` that holds a batch.

        Raises:
            NoIndex: the index cannot be used, or lacks one of them.
        """
        spans = self.spans(tip)
        with self.database.reading() as connection:
            found = connection.execute(
                "SELECT number, line, depth FROM version WHERE edit_id = ?", (edit_id,)
            ).fetchall()
        inside = [number for number, line, depth in found if contains(spans, line, depth)]
        return f"v{max(inside)}" if inside else None

    def forget(self) -> None:
        """Remove all that is known of versions: their files are read again."""
        with self._lock, self.database.writing() as connection:
            self._seen, self._names.generation, self._spans = None, -1, {}
            forget_versions(connection)

    def _add(self, numbers: Iterable[int]) -> None:
        waiting = iter(sorted(numbers))
        while some := list(islice(waiting, AT_ONCE)):
            read = list(self._read(some))
            if read:
                with self.database.writing() as connection:
                    for stamp, manifest in read:
                        self._insert(connection, stamp, manifest)

    def _read(self, numbers: Sequence[int]) -> Iterator[tuple[str, Manifest]]:
        """The manifests that can be read, with the stamps of their files."""
        for number in numbers:
            stamp = stamp_of(self._manifest(number))
            self._left_out.pop(number, None)
            try:
                yield stamp, self._versions.parsed(f"v{number}")
            except CorruptFile:
                self._left_out[number] = stamp
            except OSError as error:
                of_one_file(error)
                self._left_out[number] = UNREAD
            except UnknownVersion:
                continue  # it was moved aside since it was listed

    def _insert(self, connection: sqlite3.Connection, stamp: str, manifest: Manifest) -> None:
        number, line, depth = int(manifest.id[1:]), 0, 0
        if connection.execute("SELECT 1 FROM version WHERE number = ?", (number,)).fetchone():
            return  # by another process
        if manifest.parent is not None:
            above = connection.execute(
                "SELECT line, depth, facts, live FROM version WHERE number = ?",
                (int(manifest.parent[1:]),),
            ).fetchone()
            if above is None:  # its parent is damaged; nobody can say what it is built on
                self._left_out[number] = stamp
                return
            line, depth = above[0], above[1] + 1
        first = connection.execute(
            "SELECT 1 FROM version WHERE line = ? AND depth = ?", (line, depth)
        ).fetchone()
        if manifest.parent is None:
            connection.execute("INSERT OR IGNORE INTO line VALUES (0, NULL, -1)")
        elif first:
            connection.execute("INSERT INTO line VALUES (?, ?, ?)", (number, line, depth - 1))
            line = number
        facts, live = len(manifest.facts), 0
        if manifest.parent is not None:
            spans = spans_of(connection, int(manifest.parent[1:])) or []
            facts, live = facts + above[2], above[3]
            questions = {question_of(fact.subject, fact.prompt) for fact in manifest.facts}
            live += sum(1 for one in questions if not is_edited(connection, spans, one))
        staged, n_facts, shown = int(manifest.staged), len(manifest.facts), shown_of(manifest)
        seal = seal_of(number, line, depth, staged, n_facts, shown)
        connection.execute(
            "INSERT INTO version VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                number, line, depth, manifest.job_id, manifest.edit_id, stamp,
                staged, n_facts, facts, live, shown, seal,
            ),
        )  # fmt: skip
        add_rows(connection, manifest, line, depth)

    def _manifest(self, number: int) -> Path:
        return self._folder / f"v{number}" / "manifest.json"
