"""The jobs of a store by kind and end, newest first, without reading all their records."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from pathlib import Path

from jeep_core.storage.looking import listed
from service.contracts.jobs import TERMINAL, Job, JobKind, JobStatus
from service.store.index.database import Database, NoIndex

JobReader = Callable[[str], Job | None]

BATCH = 64
NEWEST = "~"
"""Greater than every id."""


class JobIndex:
    """The ids of jobs; whoever lists them reads the records, which may have ended meanwhile.

    An id that is not in the index, as it could not be written or its process was killed before, is
    added when a process first asks, or asks again after a failure of its own.
    """

    def __init__(self, root: Path, database: Database) -> None:
        self._folder, self._database = root / "jobs", database
        self._complete: int | None = None
        self._lock = threading.Lock()
        # those that a listing has given as not ended
        self._unsettled: set[str] = set()

    def keep(self, job: Job) -> None:
        """Remember a job as it is now; where that fails, the next listing looks for its record."""
        ended = job.status.value if job.status in TERMINAL else None
        # a failure closes the file, so that the next listing completes it (`_complete_once`)
        with suppress(NoIndex), self._database.writing() as connection:
            connection.execute(
                "INSERT INTO job VALUES (?, ?, ?) "
                "ON CONFLICT (id) DO UPDATE SET ended = excluded.ended",
                (job.id, job.kind.value, ended),
            )

    def settle(self, job: Job) -> None:
        """Remember the end of a job that the index took to be running when it was listed."""
        if job.id in self._unsettled:
            self._unsettled.discard(job.id)
            self.keep(job)

    def ids(
        self,
        read: JobReader,
        statuses: Collection[JobStatus] | None = None,
        kind: JobKind | None = None,
        after: str | None = None,
    ) -> Iterator[str]:
        """Ids of jobs that may be of a kind and have one of the statuses, newest first.

        ``after``: only older ones.  ``read`` gives a job that the index does not know yet.

        Raises:
            NoIndex: the index cannot be used; before the first id.
        """
        self._complete_once(read)
        conditions, values = ["id < ?"], list[object]()
        if kind is not None:
            conditions.append("kind = ?")
            values.append(kind.value)
        if statuses is not None:
            ends = sorted(one.value for one in {*statuses} & TERMINAL)
            conditions.append(f"(ended IS NULL OR ended IN ({', '.join('?' * len(ends))}))")
            values += ends
        query = (
            f"SELECT id, ended FROM job WHERE {' AND '.join(conditions)} ORDER BY id DESC LIMIT ?"
        )
        last = NEWEST if after is None else after
        while True:
            with self._database.reading() as connection:
                found = connection.execute(query, (last, *values, BATCH)).fetchall()
            self._unsettled.update(job_id for job_id, ended in found if ended is None)
            yield from (job_id for job_id, _ in found)
            if len(found) < BATCH:
                return
            last = found[-1][0]

    def unchecked(self, read: JobReader) -> list[str]:
        """Ids of checks of facts that are not known to have ended, or whose answers are not in the
        index, oldest first.

        Raises:
            NoIndex: the index cannot be used.
        """
        self._complete_once(read)
        with self._database.reading() as connection:
            found = connection.execute(
                "SELECT id FROM job WHERE kind = ? AND id NOT IN (SELECT job FROM checked) "
                "ORDER BY id",
                (JobKind.CHECK.value,),
            )
            return [job_id for (job_id,) in found]

    def _complete_once(self, read: JobReader) -> None:
        """Add the jobs whose writer was killed before it could, once in the life of a process."""
        with self._lock:
            if self._complete == self._database.generation and self._database.is_open:
                return
            with self._database.reading() as connection:
                known = {job_id for (job_id,) in connection.execute("SELECT id FROM job")}
            # afterwards, as another process may add a job meanwhile: its record is there first
            there = {path.stem for path in listed(self._folder, "*.json")}
            missing = sorted(there - known)
            rows = [
                (job.id, job.kind.value, job.status.value if job.status in TERMINAL else None)
                for job in map(read, missing)
                if job is not None
            ]
            with self._database.writing() as connection:
                connection.executemany("INSERT OR IGNORE INTO job VALUES (?, ?, ?)", rows)
                gone = [(job_id,) for job_id in known - there]
                connection.executemany("DELETE FROM job WHERE id = ?", gone)
            self._complete = self._database.generation
