"""The findings of checks of facts: their reports, and the index of them."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from pydantic import ValidationError

from service.contracts.jobs import TERMINAL, Job, JobKind, JobStatus
from service.contracts.schemas.effects.checks import ANSWERS_FILE, CheckAnswers, CheckPayload
from service.store.errors import CorruptFile, ErrorLog, UnknownJob
from service.store.files import OF_ONE_FILE
from service.store.history import Answers
from service.store.index.catalogue import Catalogue
from service.store.index.database import Database, NoIndex
from service.store.index.places import Span
from service.store.index.rows import AskedRow, add_answers
from service.store.journal import Journal
from service.store.reports import Reports

FactAt = tuple[int, int]
"""The number of the version that taught a fact, and its place there."""
Told = tuple[int, bool, str]
"""The number of a version that was asked a fact, whether it says that, and the check's job."""


Read = tuple[int, str]
"""A check whose report was read: the number of the version that was asked, and the job."""
State = tuple[int, str, int]
"""The check whose report was read last, and when the first one was: which reading that is."""
LINES = 4
"""Lines of which the index keeps what was read of reports for them."""


class _InMemory:
    """The last answers of a line, as far as its reports were read, for one list alone."""

    def __init__(self, tip: int) -> None:
        self._state: State = (tip + 1, "", 0)
        self._found: dict[FactAt, Told] = {}

    def look(self, fact: FactAt) -> tuple[State | None, Told | None]:
        """How far reports were read, None before `begin`; and the answer to a fact up to there."""
        return self._state, self._found.get(fact)

    def begin(self) -> None:
        """Read no report yet, which comes before those of all versions of the line."""

    def add(self, state: State, now: Read, answers: Mapping[FactAt, bool]) -> None:
        """Add the answers of the check that comes next."""
        self._state = (*now, state[2])
        for fact, holds in answers.items():
            self._found.setdefault(fact, (now[0], holds, now[1]))


class _InIndex:
    """The same in the index, so that another list goes on from there.

    All methods raise NoIndex.
    """

    def __init__(self, database: Database, tip: int) -> None:
        self._database, self._tip = database, tip
        self._seen = set[FactAt]()

    def look(self, fact: FactAt) -> tuple[State | None, Told | None]:
        """As in memory."""
        with self._database.at_one_time() as connection:
            state = self._state(connection)
            found = connection.execute(
                "SELECT by, holds, job FROM told WHERE tip = ? AND number = ? AND place = ?",
                (self._tip, *fact),
            ).fetchone()
        return state, None if found is None else (found[0], bool(found[1]), found[2])

    def begin(self) -> None:
        """As in memory.  From now on a check that ends has the line forgotten, if it is of it."""
        self._seen.clear()
        with self._database.writing() as connection:
            first = (self._tip, self._tip + 1, "", time.time_ns())
            connection.execute("INSERT OR IGNORE INTO told_to VALUES (?, ?, ?, ?)", first)
            others = "SELECT tip FROM told_to ORDER BY begun DESC LIMIT -1 OFFSET ?"
            _forget_lines(connection, f"tip IN ({others})", LINES)

    def add(self, state: State, now: Read, answers: Mapping[FactAt, bool]) -> None:
        """As in memory; nothing, where another list has gone on or the line was forgotten."""
        new = answers.keys() - self._seen
        with self._database.writing() as connection:
            if self._state(connection) != state:
                self._seen.clear()
                return
            connection.execute(
                "UPDATE told_to SET number = ?, job = ? WHERE tip = ?", (*now, self._tip)
            )
            connection.executemany(
                "INSERT OR IGNORE INTO told VALUES (?, ?, ?, ?, ?, ?)",
                ((self._tip, *fact, now[0], answers[fact], now[1]) for fact in new),
            )
        self._seen |= new

    def _state(self, connection: sqlite3.Connection) -> State | None:
        query = "SELECT number, job, begun FROM told_to WHERE tip = ?"
        found: State | None = connection.execute(query, (self._tip,)).fetchone()
        return found


def _forget_lines(connection: sqlite3.Connection, which: str, *values: object) -> None:
    """Forget what was read of reports for some lines."""
    found = connection.execute(f"SELECT tip FROM told_to WHERE {which}", values).fetchall()
    for table in ("told", "told_to"):
        connection.executemany(f"DELETE FROM {table} WHERE tip = ?", found)


class Earlier:
    """The answers of a line's versions to checks, read from reports as far as they are needed.

    What was read is kept in the index (`LINES`), where that can be written and every report can be
    read: each is read once for a line, however many pages are listed.

    ``read``: the answers of a job, None if they cannot be read.  ``asking``: the versions that were
    asked, and the jobs, the newest first; those after one of them, if it is given.
    """

    def __init__(
        self,
        database: Database,
        tip: str,
        read: Callable[[str], Mapping[FactAt, bool] | None],
        asking: Callable[[Read | None], Iterator[Read]],
    ) -> None:
        self._tip, self._read, self._asking = int(tip[1:]), read, asking
        self._kept: _InMemory | _InIndex = _InIndex(database, self._tip)
        self._state: State | None = None
        self._left: Iterator[Read] = iter(())
        self._following: Read | None = None

    def last(self, fact: FactAt, least: int) -> Told | None:
        """The last answer to a fact, of a version from ``least`` on."""
        while True:
            state, found = self._kept.look(fact)
            if found is not None:
                return found if found[0] >= least else None
            if state is None:
                self._carry_out(self._kept.begin)
                continue
            if state != self._state:
                before, following = self._state, self._following
                if before is None or following is None or state != (*following, before[2]):
                    self._left = self._asking(state[:2])
                self._state, self._following = state, next(self._left, None)
            if self._following is None or self._following[0] < least:
                return None
            answers = self._read(self._following[1])
            if answers is None and isinstance(self._kept, _InIndex):
                self._kept = _InMemory(self._tip)  # it may be readable the next time
            else:
                self._carry_out(partial(self._kept.add, state, self._following, answers or {}))

    def _carry_out(self, step: Callable[[], None]) -> None:
        """Keep what is read; where the index cannot, for this list alone, from the first report."""
        try:
            step()
        except NoIndex:
            self._kept = _InMemory(self._tip)

    def before(self, fact: FactAt, number: int) -> Iterator[Told]:
        """The answers to a fact of versions before one, the last first."""
        seen = None
        for by, job_id in self._asking(None):
            if by < fact[0]:
                return
            if by >= number or by == seen:
                continue
            holds = (self._read(job_id) or {}).get(fact)
            if holds is not None:
                seen = by
                yield by, holds, job_id


class Checks:
    """The checks of a store (``store.checks``).

    A check says of the version that it has asked which facts hold there, as the edit that made the
    version says it of those that it asked; what was asked last counts.  The answers are in the
    check's report.  The index has them from the first time that facts are listed after its end; of
    a fact those of the `LAST_ASKED` newest versions that checks have asked it, so that it does not
    grow with their number.  Older ones are read from reports (`Earlier`).
    """

    def __init__(
        self, catalogue: Catalogue, journal: Journal, reports: Reports, errors: ErrorLog
    ) -> None:
        self._catalogue, self._journal, self._reports = catalogue, journal, reports
        self._errors = errors

    def catch_up(self) -> None:
        """Add the answers of checks that have ended since the last call to the index.

        Those of a version that cannot be read now, and those whose own report cannot, are left out
        until they can.

        Raises:
            NoIndex: the index cannot be used.
        """
        self._catalogue.up_to_date()
        database, jobs = self._catalogue.database, self._journal.unchecked()
        with database.reading() as connection:
            query = "SELECT 1 FROM checked WHERE job NOT IN (SELECT id FROM job) LIMIT 1"
            gone = connection.execute(query).fetchone()
        if gone:  # what they have overwritten is not known any more
            self._catalogue.forget()
            self._catalogue.up_to_date()
            jobs = self._journal.unchecked()
        for job in jobs:
            if job.status is JobStatus.SUCCEEDED:
                self._add(job)
            elif job.status in TERMINAL:
                with database.writing() as connection:
                    connection.execute("INSERT OR IGNORE INTO checked VALUES (?, NULL)", (job.id,))

    def _add(self, job: Job) -> None:
        """Add the answers of a check, all at one time, as others may make the index again."""
        database, number = self._catalogue.database, _asked(job)
        query = "SELECT line, depth FROM version WHERE number = ?"
        with database.reading() as connection:
            known = connection.execute(query, (number,)).fetchone()
        rows = self.rows(job) if known else None
        if rows is None:
            return
        with database.writing() as connection:
            place = connection.execute(query, (number,)).fetchone()
            if place is not None:
                add_answers(connection, rows, place, job.id)
                connection.execute("INSERT OR IGNORE INTO checked VALUES (?, ?)", (job.id, number))
                _forget_lines(connection, "tip >= ?", number)  # it may be of these

    def answers(self) -> Answers:
        """The findings of all checks, from the files alone.

        The reports of a version are read when it is asked for, as those of all together may be
        larger than memory.
        """
        jobs: dict[str, list[Job]] = {}
        for job in self._journal.all({JobStatus.SUCCEEDED}, JobKind.CHECK):  # the newest first
            short = job.model_copy(update={"result": None})
            jobs.setdefault(f"v{_asked(job)}", []).append(short)

        def of_version(version: str) -> dict[tuple[str, int], tuple[bool, str]]:
            found: dict[tuple[str, int], tuple[bool, str]] = {}
            for job in jobs.get(version, ()):
                for number, index, _, holds in self.rows(job) or ():
                    found.setdefault((f"v{number}", index), (holds, job.id))
            return found

        return of_version

    def earlier(self, tip: str, spans: Sequence[Span]) -> Earlier:
        """The answers of a version's line that the index may not have."""
        asking = partial(self._asking, spans)
        return Earlier(self._catalogue.database, tip, self._of_report, asking)

    def _asking(self, spans: Sequence[Span], after: Read | None) -> Iterator[Read]:
        """The checks of the versions in some spans: numbers of these, jobs, the newest first.

        ``after``: only those that come after one of them.
        """
        for span in spans:
            with self._catalogue.database.reading() as connection:
                found = connection.execute(
                    "SELECT v.number, c.job FROM checked c JOIN version v ON v.number = c.number "
                    "WHERE v.line = ?1 AND v.depth BETWEEN ?2 AND ?3 "
                    "AND (?4 IS NULL OR (v.number, c.job) < (?4, ?5)) "
                    "ORDER BY v.number DESC, c.job DESC",
                    (span.line, span.low, span.high, *(after or (None, None))),
                ).fetchall()
            yield from found

    def _of_report(self, job_id: str) -> dict[FactAt, bool] | None:
        """The answers of a check; None if its record or report cannot be read."""
        try:
            rows = self.rows(self._journal.read(job_id))
        except (CorruptFile, UnknownJob):
            rows = None
        if rows is None:
            return None
        return {(number, index): holds for number, index, _, holds in rows}

    def rows(self, job: Job) -> list[AskedRow] | None:
        """The answers of a check that has ended; None if they cannot be read."""
        by = _asked(job)
        try:
            lines = self._reports.path(job.id, ANSWERS_FILE).read_bytes().splitlines()
            found = [CheckAnswers.model_validate_json(line) for line in lines]
        except (CorruptFile, ValidationError, OSError) as error:
            if isinstance(error, OSError) and error.errno not in OF_ONE_FILE:
                raise
            self._errors.once(f"what {job.id} has found is not shown: {error}")
            return None
        return [
            (int(one.version[1:]), index, by, holds)
            for one in found
            for holds, some in ((True, one.held), (False, one.missing))
            for index in some
        ]


def _asked(job: Job) -> int:
    """The number of the version that a check has asked."""
    return int(CheckPayload.model_validate(job.payload).version[1:])
