"""The journal: every job as one file, cancels, idempotency keys.  It outlives Redis."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from pydantic import BaseModel

from jeep_core.storage.looking import listed, present
from service.contracts.jobs import TERMINAL, Job, JobKind, JobStatus, now
from service.store.errors import ClaimLost, CorruptFile, JobExists, KeyReused, UnknownJob
from service.store.files import OF_ONE_FILE, create, encode, fsync_folder, locked, read, replace
from service.store.index.database import NoIndex
from service.store.index.jobs import JobIndex

log = logging.getLogger(__name__)
OPEN = "open"
"""Folder of `jobs/` with a mark for each job that has not ended: as many as are open, however many
jobs there have been."""
_MARK = ".open"
_JOB_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")


@dataclass(frozen=True)
class Claim:
    """The job that an idempotency key belongs to.

    ``fresh``: no job is journaled for it yet, so the caller journals one under ``job_id``, which
    was chosen by an earlier caller if that one died in between.
    """

    job_id: str
    fresh: bool


class _Key(BaseModel):
    job_id: str
    body_hash: str
    created_at: datetime


def make_folder(root: Path) -> None:
    """Make the folder of marks of open jobs in a store, with those of earlier releases in it.

    They kept them among the records.  The folder appears with all of them in it, or not at all.
    """
    jobs = root / "jobs"
    if present(jobs / OPEN):
        return
    with locked(root / "locks" / "jobs"):
        if present(jobs / OPEN):
            return
        former = listed(jobs, f"*{_MARK}")
        aside = jobs / f".{OPEN}"
        aside.mkdir(exist_ok=True)
        for mark in former:
            (aside / mark.name).touch()
        fsync_folder(aside)
        aside.rename(jobs / OPEN)
        fsync_folder(jobs)
        for mark in former:
            mark.unlink(missing_ok=True)


class _Attempt(BaseModel):
    """``<id>.claim``."""

    attempt: str


class Journal:
    """The jobs of a store (``store.journal``): ``<id>.json``, marks of open jobs in a folder of
    their own, and ``.cancel`` marks.

    ``<id>.claim`` says whose turn a job is that several workers may do: the attempt that has begun
    it last.  Beginning one and recording its end are done under one lock, so an attempt that was
    overtaken, as its process had been stopped, records nothing.

    An idempotency key is remembered for ``idempotency``.
    """

    def __init__(self, root: Path, idempotency: timedelta, index: JobIndex) -> None:
        self._root, self._idempotency, self._index = root, idempotency, index

    def add(self, job: Job) -> None:
        """Record a new job durably; :class:`JobExists` if its id is taken."""
        self._mark(self._open_mark(job.id))  # first, so that an open job is never overlooked
        try:
            create(self._job_path(job.id, "json"), encode(job))
        except FileExistsError:
            raise JobExists(f"{job.id} is already journaled") from None
        except OSError:
            if not present(self._job_path(job.id, "json")):
                self._open_mark(job.id).unlink(missing_ok=True)
            raise
        self._index.keep(job)

    def save(self, job: Job) -> None:
        """Replace the record of a job; a finished one leaves the list of open jobs."""
        if not present(self._job_path(job.id, "json")):
            raise UnknownJob(job.id)
        replace(self._job_path(job.id, "json"), encode(job))
        if job.status in TERMINAL:
            self._unmark(job.id)
            self._index.keep(job)

    @contextmanager
    def claiming(self) -> Iterator[None]:
        """Let no other worker begin or end a shared job for the block."""
        with locked(self._root / "locks" / "claims"):
            yield

    def claim(self, job_id: str, attempt: str) -> None:
        """Make an attempt the one that may end a job; within `claiming`."""
        replace(self._job_path(job_id, "claim"), encode(_Attempt(attempt=attempt)))

    def check_claim(self, job_id: str, attempt: str) -> None:
        """Raise :class:`ClaimLost` if another attempt has begun the job, or ended it."""
        try:
            found = read(self._job_path(job_id, "claim"), _Attempt)
        except CorruptFile:
            found = None
        if found is None or found.attempt != attempt:
            raise ClaimLost(f"another worker has {job_id}")

    def save_claimed(self, job: Job, attempt: str) -> None:
        """As `save`, unless another attempt has begun the job: :class:`ClaimLost`."""
        with self.claiming():
            self.check_claim(job.id, attempt)
            self.save(job)

    def read(self, job_id: str) -> Job:
        """The record of a job; :class:`UnknownJob` if there is none."""
        job = read(self._job_path(job_id, "json"), Job)
        if job is None:
            raise UnknownJob(job_id)
        return job

    def all(
        self,
        statuses: Collection[JobStatus] | None = None,
        kind: JobKind | None = None,
        after: str | None = None,
    ) -> Iterator[Job]:
        """Jobs, newest first, read one by one; ``after``: only those older than this id.

        Records that cannot be read are logged and left out.
        """
        for job_id in self._ids(statuses, kind, after):
            job = self._readable(job_id)
            if job is None:
                continue
            if job.status in TERMINAL:
                self._index.settle(job)  # a follower that has ended it keeps no index
            if statuses is not None and job.status not in statuses:
                continue
            if kind is None or job.kind is kind:
                yield job

    def unchecked(self) -> list[Job]:
        """Checks of facts that the index lacks, and such as have not ended, oldest first.

        Raises:
            NoIndex: the index cannot be used.
        """
        found = []
        for job_id in self._index.unchecked(self._readable):
            try:
                job = self._readable(job_id)
            except OSError as error:
                if error.errno not in OF_ONE_FILE:
                    raise
                job = None  # it is looked at again
            found += [] if job is None else [job]
        return found

    def _ids(
        self, statuses: Collection[JobStatus] | None, kind: JobKind | None, after: str | None
    ) -> Iterator[str]:
        """Ids of jobs that may be wanted, newest first: from the index, else the folder."""
        last = after
        try:
            for job_id in self._index.ids(self._readable, statuses, kind, after):
                yield job_id
                last = job_id
        except NoIndex:
            names = (path.stem for path in listed(self._root / "jobs", "*.json"))
            yield from sorted((n for n in names if last is None or n < last), reverse=True)

    def unfinished(self) -> list[Job]:
        """Jobs that have not ended, oldest first; unreadable records are left out, as above.

        A job that ended in a crash may still be marked as open; its marks are removed.
        """
        jobs = []
        for mark in self._open_marks():
            job = self._readable(mark.removesuffix(_MARK))
            if job is not None and job.status in TERMINAL:
                self._unmark(job.id)
            elif job is not None:
                jobs.append(job)
        return jobs

    def adopt_marks(self) -> None:
        """Move the marks that an api of an earlier release has written among the records.

        It may go on for a while after this store was opened by a worker of this release, and what
        it accepts must not be overlooked where the worker ends before the job does.
        """
        for former in listed(self._root / "jobs", f"*{_MARK}"):
            job = self._readable(former.stem)
            if job is not None and job.status not in TERMINAL:
                self._mark(self._open_mark(job.id))
            if job is not None:
                former.unlink(missing_ok=True)

    def count_open(self) -> int:
        """How many jobs have not ended."""
        return len(self._open_marks())

    def _open_marks(self) -> list[str]:
        """The names of the marks of open jobs, oldest first."""
        with os.scandir(self._root / "jobs" / OPEN) as entries:
            return sorted(entry.name for entry in entries if entry.name.endswith(_MARK))

    def _readable(self, job_id: str) -> Job | None:
        try:
            return read(self._root / "jobs" / f"{job_id}.json", Job)
        except CorruptFile as error:
            log.error("%s", error)
            return None

    def request_cancel(self, job_id: str) -> None:
        """Record that an unfinished job is to be cancelled; UnknownJob if there is none."""
        if self.read(job_id).status not in TERMINAL:
            self._mark(self._job_path(job_id, "cancel"))

    def cancel_requested(self, job_id: str) -> bool:
        """Whether this unfinished job is to be cancelled."""
        return present(self._job_path(job_id, "cancel"))

    def claim_key(self, key: str, body_hash: str, job_id: str) -> Claim:
        """Tie an idempotency key to a job, or find the job it is tied to.

        Raises :class:`KeyReused` if the key came with another body less than
        ``idempotency_hours`` ago.
        """
        name = hashlib.sha256(key.encode()).hexdigest()
        path = self._root / "idempotency" / f"{name}.json"
        with locked(self._root / "locks" / "idempotency"):
            earlier = read(path, _Key)
            if earlier is None or self._is_expired(earlier):
                mine = _Key(job_id=job_id, body_hash=body_hash, created_at=now())
                replace(path, encode(mine))
                return Claim(job_id, fresh=True)
        if earlier.body_hash != body_hash:
            raise KeyReused(earlier.job_id)
        journaled = present(self._job_path(earlier.job_id, "json"))
        return Claim(earlier.job_id, fresh=not journaled)

    def release_key(self, key: str, job_id: str) -> None:
        """Release a key whose job was refused before it was journaled."""
        path = self._root / "idempotency" / f"{hashlib.sha256(key.encode()).hexdigest()}.json"
        with locked(self._root / "locks" / "idempotency"):
            claimed = read(path, _Key)
            journaled = present(self._job_path(job_id, "json"))
            if claimed is not None and claimed.job_id == job_id and not journaled:
                path.unlink()

    def tidy(self) -> int:
        """Remove expired idempotency keys and stale cancel marks; return their number."""
        return self._forget_keys() + self._forget_marks()

    def _forget_keys(self) -> int:
        """Remove expired idempotency keys; return their number."""
        count = 0
        with locked(self._root / "locks" / "idempotency"):
            for path in listed(self._root / "idempotency", "*.json"):
                try:
                    key = read(path, _Key)
                except CorruptFile as error:
                    log.error("%s", error)
                    continue
                if key is not None and self._is_expired(key):
                    path.unlink()
                    count += 1
        return count

    def _is_expired(self, key: _Key) -> bool:
        return now() - key.created_at > self._idempotency

    def _forget_marks(self) -> int:
        """Remove the marks of jobs that ended meanwhile; return their number."""
        folder = self._root / "jobs"
        marks = [*listed(folder, "*.cancel"), *listed(folder, "*.claim")]
        stale = [mark for mark in marks if not present(self._open_mark(mark.stem))]
        for mark in stale:
            mark.unlink(missing_ok=True)
        return len(stale)

    def _unmark(self, job_id: str) -> None:
        others = (self._job_path(job_id, "cancel"), self._job_path(job_id, "claim"))
        for mark in (self._open_mark(job_id), *others):
            mark.unlink(missing_ok=True)

    def _mark(self, path: Path) -> None:
        path.touch()
        fsync_folder(path.parent)

    def _open_mark(self, job_id: str) -> Path:
        path = self._job_path(job_id, OPEN)
        return path.parent / OPEN / path.name

    def _job_path(self, job_id: str, suffix: str) -> Path:
        if not _JOB_ID.fullmatch(job_id):
            raise UnknownJob(job_id)
        return self._root / "jobs" / f"{job_id}.{suffix}"
