"""The findings of checks of facts: their reports, and the index of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from pydantic import ValidationError

from service.contracts.jobs import TERMINAL, Job, JobKind, JobStatus
from service.contracts.schemas.effects.checks import ANSWERS_FILE, CheckAnswers, CheckPayload
from service.store.errors import CorruptFile, ErrorLog, UnknownJob
from service.store.files import OF_ONE_FILE
from service.store.history import Answers
from service.store.index.catalogue import Catalogue
from service.store.index.places import Span
from service.store.index.rows import AskedRow, add_answers
from service.store.journal import Journal
from service.store.reports import Reports

FactAt = tuple[int, int]
"""The number of the version that taught a fact, and its place there."""
Told = tuple[int, bool, str]
"""The number of a version that was asked a fact, whether it says that, and the check's job."""


class Earlier:
    """The answers of a line's versions to checks, read from reports as far as they are needed.

    ``read``: the answers of a job.  ``asking``: the versions that were asked, and the jobs, the
    newest first.
    """

    def __init__(
        self,
        read: Callable[[str], Mapping[FactAt, bool]],
        asking: Callable[[], Iterator[tuple[int, str]]],
    ) -> None:
        self._read, self._asking = read, asking
        self._left: Iterator[tuple[int, str]] | None = None
        self._next: tuple[int, str] | None = None
        self._told: dict[FactAt, Told] = {}

    def last(self, fact: FactAt, least: int) -> Told | None:
        """The last answer to a fact, of a version from ``least`` on."""
        if self._left is None:
            self._left = self._asking()
            self._next = next(self._left, None)
        while fact not in self._told and self._next is not None and self._next[0] >= least:
            number, job_id = self._next
            for other, holds in self._read(job_id).items():
                self._told.setdefault(other, (number, holds, job_id))
            self._next = next(self._left, None)
        found = self._told.get(fact)
        return found if found is not None and found[0] >= least else None

    def before(self, fact: FactAt, number: int) -> Iterator[Told]:
        """The answers to a fact of versions before one, the last first."""
        seen = None
        for by, job_id in self._asking():
            if by < fact[0]:
                return
            if by >= number or by == seen:
                continue
            holds = self._read(job_id).get(fact)
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

    def earlier(self, spans: Sequence[Span]) -> Earlier:
        """The answers of a line that the index may not have."""
        return Earlier(self._of_report, partial(self._asking, spans))

    def _asking(self, spans: Sequence[Span]) -> Iterator[tuple[int, str]]:
        """The checks of the versions in some spans: numbers of these, jobs, the newest first."""
        for span in spans:
            with self._catalogue.database.reading() as connection:
                found = connection.execute(
                    "SELECT v.number, c.job FROM checked c JOIN version v ON v.number = c.number "
                    "WHERE v.line = ? AND v.depth BETWEEN ? AND ? ORDER BY v.number DESC, c.job "
                    "DESC",
                    (span.line, span.low, span.high),
                ).fetchall()
            yield from found

    def _of_report(self, job_id: str) -> dict[FactAt, bool]:
        """The answers of a check; none if its record or report cannot be read."""
        try:
            rows = self.rows(self._journal.read(job_id))
        except (CorruptFile, UnknownJob):
            rows = None
        return {(number, index): holds for number, index, _, holds in rows or ()}

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
