"""The SQLite file of the index: opened when it is needed, thrown away when it is damaged."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from jeep_core.errors import Coded

log = logging.getLogger(__name__)

FOLDER = "index"
"""Of a store's directory."""
FORMAT = 7
"""Raise it with every change of the schema or of what is written; other formats are made again."""
BUSY_S = 2.0
"""How long another process may write before the files are read instead."""
REST_S = 10.0
"""How long they are read then, before the index is tried again."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS version (
    number INTEGER PRIMARY KEY,
    line INTEGER NOT NULL,      -- versions of which each is the first child of the one before
    depth INTEGER NOT NULL,     -- steps from the base
    job_id TEXT,
    edit_id TEXT,
    stamp TEXT NOT NULL,        -- of the manifest's file, see catalogue.stamp_of
    staged INTEGER NOT NULL,
    n_facts INTEGER NOT NULL,
    facts INTEGER NOT NULL,     -- of this version and all that it is built on
    live INTEGER NOT NULL,      -- questions among them; one that was edited twice counts once
    shown TEXT NOT NULL,        -- JSON: what a list says of it
    seal INTEGER NOT NULL       -- see seal_of
);
CREATE INDEX IF NOT EXISTS version_place ON version (line, depth);
CREATE INDEX IF NOT EXISTS version_facts ON version (line, facts, depth);
CREATE INDEX IF NOT EXISTS version_staged ON version (number) WHERE staged;
CREATE INDEX IF NOT EXISTS version_job ON version (job_id);
CREATE INDEX IF NOT EXISTS version_edit ON version (edit_id);
CREATE TABLE IF NOT EXISTS line (
    id INTEGER PRIMARY KEY,     -- the number of its first version
    parent INTEGER,             -- the line it leaves
    fork INTEGER NOT NULL       -- the depth of the version it is built on
);
CREATE TABLE IF NOT EXISTS named (
    sha256 BLOB NOT NULL,       -- of a tensor
    number INTEGER NOT NULL,    -- of a version that names it
    whole INTEGER NOT NULL,     -- as a matrix of its weights; else as a factor or the like
    PRIMARY KEY (sha256, number, whole)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS fact (
    number INTEGER NOT NULL,    -- of the version whose batch taught it
    position INTEGER NOT NULL,
    place INTEGER NOT NULL,     -- in the batch's request
    subject TEXT NOT NULL,
    question TEXT NOT NULL,
    said TEXT NOT NULL,         -- what a search looks through
    entry TEXT NOT NULL,        -- JSON: what a list says of it
    seal INTEGER NOT NULL,
    line INTEGER NOT NULL,      -- of the version, and its depth
    depth INTEGER NOT NULL,
    until INTEGER,              -- the depth at which its own line edits the question again
    PRIMARY KEY (number, position)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS fact_place ON fact (number, place);
CREATE INDEX IF NOT EXISTS fact_subject ON fact (subject, depth DESC);
CREATE INDEX IF NOT EXISTS fact_question ON fact (question, depth);
CREATE INDEX IF NOT EXISTS fact_question_line ON fact (question, line, depth);
CREATE INDEX IF NOT EXISTS fact_lasting ON fact (line, depth DESC, position) WHERE until IS NULL;
CREATE INDEX IF NOT EXISTS fact_line ON fact (line, depth DESC, position, until);
CREATE TABLE IF NOT EXISTS asked (
    number INTEGER NOT NULL,    -- of the version that taught the fact
    place INTEGER NOT NULL,
    by INTEGER NOT NULL,        -- the version that was asked
    holds INTEGER NOT NULL,
    line INTEGER NOT NULL,      -- of that version, and its depth
    depth INTEGER NOT NULL,
    job TEXT NOT NULL,          -- of the check that has asked last; none: its edit has
    -- of checks of a fact those of the newest versions alone, see rows.left_out_below; what an edit
    -- was told stays beside them
    PRIMARY KEY (number, place, depth, line, job)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS asked_line ON asked (number, place, line, depth);
CREATE INDEX IF NOT EXISTS asked_by_check ON asked (number, place, by) WHERE job != '';
CREATE TABLE IF NOT EXISTS missed (  -- facts that a version, of any line, was asked and did not say
    line INTEGER NOT NULL,      -- of the version that taught the fact, and its depth
    depth INTEGER NOT NULL,
    position INTEGER NOT NULL,
    number INTEGER NOT NULL,
    PRIMARY KEY (line, depth DESC, position)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS checked (  -- ended checks whose answers are above
    job TEXT PRIMARY KEY,
    number INTEGER              -- of the version; none: the check has no answers
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS covered (
    line INTEGER PRIMARY KEY,
    depth INTEGER NOT NULL      -- up to here versions were head, or what a head was built on
);
CREATE TABLE IF NOT EXISTS job (
    id TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    ended TEXT                  -- its status, if that cannot change any more
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS job_kind ON job (kind, id);
CREATE TABLE IF NOT EXISTS note (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""


def seal_of(*values: object) -> int:
    """A checksum of what is shown of a row: SQLite itself does not notice a flipped bit."""
    return zlib.crc32(repr(values).encode())


def check_seal(seal: int, *values: object) -> None:
    """Raise what damage raises, unless ``seal`` is that of the values."""
    if seal_of(*values) != seal:
        raise sqlite3.DatabaseError("a row is damaged")


class NoIndex(Coded, RuntimeError):
    """The index cannot be used now; the files can."""

    code = "no_index"


class Database:
    """One connection for all threads of a process.  Every failure is a :class:`NoIndex`.

    ``read_only``: the file is read as others keep it, and where it lacks something, or is damaged,
    that is a failure.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self._path, self._read_only = path, read_only
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._file: int | None = None
        self._said: str | None = None
        self._rests_until = 0.0
        self.generation = 0
        """Rises when the file was thrown away: what is remembered of it is void."""

    @property
    def is_open(self) -> bool:
        """Whether a file is open, and still is the one in the folder."""
        return self._connection is not None and self._inode() == self._file

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The connection, for this thread alone.

        Raises:
            NoIndex: it cannot be opened or read.
        """
        with self._lock:
            if time.monotonic() < self._rests_until:
                raise NoIndex(str(self._said))
            try:
                yield self._opened()
            except sqlite3.Error as error:
                raise self._unusable(error) from None

    @contextmanager
    def at_one_time(self) -> Iterator[sqlite3.Connection]:
        """As `reading`, where what other processes write meanwhile is not seen.

        Raises:
            NoIndex: it cannot be opened or read.
        """
        with self.reading() as connection:
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                with suppress(sqlite3.Error):  # an error may have ended it
                    connection.execute("ROLLBACK")

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction, which is taken back where the block raises.

        Raises:
            NoIndex: another process writes for too long, there is no room, or the file is damaged.
        """
        if self._read_only:
            raise NoIndex("the index is behind, and this process only reads it")
        with self.reading() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        with self._lock:
            if self._connection is not None:
                with suppress(sqlite3.Error):
                    self._connection.close()
            self._connection = None

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None or not self.is_open:
            self.close()
            self._connection, before = self._open(), self._file
            self._file = self._inode()
            if before not in (None, self._file):  # another process has made it again
                self.generation += 1
        return self._connection

    def _inode(self) -> int | None:
        """The number of the file in the folder, None without one."""
        try:
            return self._path.stat().st_ino
        except OSError:
            return None

    def _open(self) -> sqlite3.Connection:
        if self._read_only:
            return self._opened_to_read()
        try:
            self._path.parent.mkdir(exist_ok=True)
        except OSError as error:
            raise sqlite3.OperationalError(str(error)) from None
        connection = sqlite3.connect(
            self._path, timeout=BUSY_S, isolation_level=None, check_same_thread=False
        )
        # what is lost in a power cut is read from the files again
        for statement in ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=NORMAL"):
            connection.execute(statement)
        (found,) = connection.execute("PRAGMA user_version").fetchone()
        if found not in (0, FORMAT):
            connection.close()
            raise sqlite3.DatabaseError(f"it has format {found}")
        if found == 0:
            connection.executescript(
                f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA user_version={FORMAT}; COMMIT"
            )
            self.generation += 1
        return connection

    def _opened_to_read(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"{self._path.as_uri()}?mode=ro",
            timeout=BUSY_S,
            isolation_level=None,
            check_same_thread=False,
            uri=True,
        )
        (found,) = connection.execute("PRAGMA user_version").fetchone()
        if found != FORMAT:
            connection.close()
            raise sqlite3.OperationalError(f"it has format {found}")
        return connection

    def _unusable(self, error: sqlite3.Error) -> NoIndex:
        """The error as this module's own; a file that is no index is removed, to be made again."""
        self.close()
        damaged = not isinstance(error, sqlite3.OperationalError | sqlite3.ProgrammingError)
        damaged = damaged and not self._read_only
        if damaged:
            for suffix in ("", "-wal", "-shm"):
                with suppress(OSError):
                    self._path.with_name(self._path.name + suffix).unlink()
            self.generation += 1
        what = f"the index {self._path} cannot be used ({error}): " + (
            "it is made again" if damaged else "records are read one by one"
        )
        if not damaged:
            self._rests_until = time.monotonic() + REST_S
        if what != self._said:
            log.warning("%s", what)
        self._said = what
        return NoIndex(what)
