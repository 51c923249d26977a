"""The base of both lanes of jobs: each takes one job at a time and ends it exactly once."""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from pydantic import BaseModel

from jeep_core.errors import Cancelled, is_passing
from jeep_core.spec.finite import check_record
from service.contracts.jobs import TERMINAL, Job, JobError, JobStatus, Progress, now
from service.ops import logs, tracing
from service.queue import JobGone, JobQueue, LeaseLost, QueuedJob, QueueFailure
from service.settings import Settings
from service.store import (
    ClaimLost,
    CorruptFile,
    StaleFence,
    Store,
    UnknownJob,
    is_denied,
    is_disk_full,
)
from service.store.maintenance.room import Room
from service.worker.failures import Refused, Stopping, failure, is_foreseen
from service.worker.memory import give_back_freed, release_cached
from service.worker.metrics import PhaseClock, count_end

log = logging.getLogger(__name__)
OUT_OF_MEMORY = "out_of_memory"
WAIT_MS = 500
ROOM_S = 1.0
"""How long to wait for room on a full disk before the next try."""

NOT_ITS_FAULT = (LeaseLost, StaleFence, ClaimLost, Stopping, QueueFailure)
"""What ends an attempt without a word about the job, which stays queued."""

Work = Callable[[], BaseModel]
"""Does what a job asks for; its result.  Raises what ``JobLane`` turns into the job's error."""


class Right(Protocol):
    """The right of a worker to work: `Lease` for the writer; a follower has no ``fence``."""

    @property
    def lost(self) -> threading.Event:
        """Set when another worker has taken over."""
        ...

    @property
    def fence(self) -> int | None:
        """The number of the lease; None without one: then only shared jobs can be done."""
        ...


class JobLane(ABC):
    """Takes jobs from a queue, works, ends them.  ``run`` returns when ``stop`` is set.

    ``working`` gives a context that every job runs in.  ``doing`` is the id of the job at work.

    A job that followers may do, too, is claimed in the store when it begins, and only the attempt
    that has claimed it last records its end.
    """

    def __init__(
        self,
        queue: JobQueue,
        store: Store,
        lease: Right,
        settings: Settings,
        working: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._queue, self._store, self._lease = queue, store, lease
        self._settings, self._working = settings, working
        self._progress, self._phases = Progress(), PhaseClock()
        self._room = Room(store.root, settings.max_store_mb, settings.min_free_mb)
        self.stop = threading.Event()
        self.doing: str | None = None
        self._steps = self._seen = 0
        self._moved_at = time.monotonic()

    def run(self) -> None:
        """Work until stopped.

        Raises:
            LeaseLost: another worker has taken over.
            QueueFailure: the queue is unreachable for longer than its client waits.
        """
        while not self.stop.is_set():
            if self._lease.lost.is_set():
                raise LeaseLost("the lease is gone")
            queued = self._queue.next(WAIT_MS)
            if queued is not None:
                try:
                    with logs.bound(job_id=queued.job.id, request_id=queued.job.request_id):
                        self._handle(queued)
                except Stopping:
                    return

    def still_s(self) -> float:
        """For how many seconds the job at work has not come to a place where it could be ended."""
        moment = time.monotonic()
        if self.doing is None or self._steps != self._seen:
            self._seen, self._moved_at = self._steps, moment
        return moment - self._moved_at

    # ------------------------------------------------------------ hooks of each lane

    def _start(self, job: Job) -> Job:
        """The job as it is recorded when it begins."""
        return job

    @abstractmethod
    def _prepare(self, job: Job) -> tuple[Job, Work]:
        """Return a job that has begun, brought up to date, and its remaining work."""

    def _ended(self, job: Job) -> None:
        """Called when a job's end is in the store; may be called twice or not at all."""
        return

    # ------------------------------------------------------------ one job

    def _handle(self, queued: QueuedJob) -> None:
        job = self._taken(queued)
        if job is None:
            return
        self.doing = job.id
        try:
            self._work_on(job)
        except ClaimLost as error:
            log.warning("%s: what this one has of it is discarded", error)
        finally:
            self.doing = None

    def _taken(self, queued: QueuedJob) -> Job | None:
        """As `_begun`; of a job that followers may do no other attempt may end it from now on.

        On a full disk, wait for room; and where its record cannot be read now, until it can be.

        Raises:
            Stopping, LeaseLost, StaleFence: before that.
        """
        while True:
            job = None
            try:
                with self._store.journal.claiming() if queued.job.shared else nullcontext():
                    job = self._begun(queued)
                    if job is not None and job.shared:
                        self._store.journal.claim(job.id, self._queue.nonce(job.id))
                    return job
            except OSError as error:
                if not is_passing(error):
                    raise
                log.error("%s waits for %s to begin: %s", queued.job.id, _awaited(error), error)
            if job is not None:
                self._give_back(job)
            if self.stop.wait(ROOM_S):
                raise Stopping
            self._check_lease()

    def _begun(self, queued: QueuedJob) -> Job | None:
        """The job, begun; None if there is nothing to do for it."""
        try:
            recorded = self._store.journal.read(queued.job.id)
        except (UnknownJob, CorruptFile) as error:
            log.error("dropped from the queue: %s", error)
            self._queue.drop(queued)
            return None
        if recorded.status in TERMINAL:
            # ended in the store, but a crash prevented the queue from being updated
            self._queue.finish(recorded, self._lease.fence)
            count_end(recorded)
            return None
        accepted = queued.job.model_copy(update={"payload": recorded.payload})
        try:
            return self._queue.begin(self._start(accepted), self._lease.fence)
        except JobGone:
            return None

    def _work_on(self, job: Job) -> None:
        self._progress, self._phases = job.progress, PhaseClock(job.kind)
        try:
            job, work = self._prepare(job)
        except CorruptFile as error:
            self._end(job, JobStatus.FAILED, None, failure(error, self._store.root))
            return
        except NOT_ITS_FAULT:
            raise
        except Exception as error:
            # it ends the process: the next one tries again, but not for ever, and not where that
            # does not help
            if job.attempt <= self._settings.job_tries and not is_denied(error):
                raise
            log.error("job %s cannot be begun", job.id, exc_info=not is_foreseen(error))
            self._end(job, JobStatus.FAILED, None, failure(error, self._store.root))
            return
        log.info("job %s begins, attempt %s, on %s", job.id, job.attempt, job.base_version)
        try:
            with (
                tracing.span(job.kind.value, job.traceparent, job_id=job.id, attempt=job.attempt),
                self._working(),
            ):
                outcome = self._outcome(job, work)
        except Stopping:
            self._give_back(job)
            raise
        if outcome[2] is not None and outcome[2].code == OUT_OF_MEMORY:
            log.warning("job %s: %s", job.id, outcome[2].message)
            release_cached()  # the failed computation's tensors have been freed here
        del work
        give_back_freed()
        self._end(job, *outcome)

    def _give_back(self, job: Job) -> None:
        """Return a job to the queue: a requested stop does not count as a failed attempt."""
        try:
            self._queue.give_back(job, self._lease.fence)
        except QueueFailure as error:
            log.warning("the interrupted attempt of %s counts: %s", job.id, error)

    def _outcome(
        self, job: Job, work: Work
    ) -> tuple[JobStatus, dict[str, Any] | None, JobError | None]:
        """Run a job to its end: status, result, error."""
        try:
            result = work()
            check_record(result, "the result")
        except Cancelled:
            return JobStatus.CANCELLED, None, None
        except NOT_ITS_FAULT:
            raise
        except Exception as error:
            if not is_foreseen(error):
                log.exception("job %s failed", job.id)
            return JobStatus.FAILED, None, failure(error, self._store.root)
        return JobStatus.SUCCEEDED, result.model_dump(mode="json"), None

    def _check_tries(self, job: Job) -> None:
        """Give up a job that has killed every worker so far."""
        tries = self._settings.job_tries
        if job.attempt > tries:
            message = (
                f"the worker died {tries} times during this job (JEEP_JOB_TRIES); its log says "
                "why: where memory ran out, fewer facts at once may do"
            )
            raise Refused("too_many_tries", message)

    def _check_room(self) -> None:
        """Refuse to begin a job that would fill the store."""
        self._room.check()

    def _publish(self, job_id: str, progress: Progress) -> None:
        """Publish a job's progress; the job does not depend on whether Redis accepts it."""
        self._steps += 1
        self._progress = progress
        self._phases.enter(progress.phase)
        try:
            self._queue.progress(job_id, progress)
        except QueueFailure as error:
            log.warning("progress of %s is not published: %s", job_id, error)

    def _check_lease(self) -> None:
        """Check that a worker that was suspended has not been replaced by another one.

        Raises:
            LeaseLost, StaleFence
        """
        self._steps += 1
        if self._lease.lost.is_set():
            raise LeaseLost("the lease is gone")
        self._store.head.check_claim()

    def _check_claim(self, job: Job) -> None:
        """Check that no other worker has begun a shared job: ClaimLost."""
        if job.shared:
            self._store.journal.check_claim(job.id, self._queue.nonce(job.id))

    def _checkpoint(self, job: Job) -> None:
        job_id = job.id
        self._check_lease()
        self._check_claim(job)
        if self.stop.is_set():
            raise Stopping
        if self._store.journal.cancel_requested(job_id) or self._queue.cancel_requested(job_id):
            raise Cancelled("cancelled on request")

    def _last_progress(self, status: JobStatus) -> Progress:
        """The progress recorded for a job that ended like this."""
        if status is not JobStatus.SUCCEEDED:
            return self._progress
        total = max(self._progress.total, 1)
        whole = {"done": total, "total": total, "eta_seconds": 0.0}
        return self._progress.model_copy(update=whole)

    def _end(
        self,
        job: Job,
        status: JobStatus,
        result: dict[str, Any] | None,
        error: JobError | None,
    ) -> None:
        update = {"status": status, "finished_at": now(), "progress": self._last_progress(status)}
        ended = job.model_copy(update={**update, "result": result, "error": error})
        self._check_lease()
        self._save(ended)
        self._ended(ended)
        self._queue.finish(ended, self._lease.fence)
        self._phases.end()
        count_end(ended)
        log.info("job %s %s%s", job.id, status, f": {error.code}" if error else "")

    def _save(self, ended: Job) -> None:
        """Record the end of a job.  On a full disk, wait for room, and for a disk that answers:
        an end is never lost.

        Raises:
            Stopping, LeaseLost, StaleFence: before there was room; the next worker ends it.
        """
        while True:
            try:
                if ended.shared:
                    nonce = self._queue.nonce(ended.id)
                    return self._store.journal.save_claimed(ended, nonce)
                return self._store.journal.save(ended)
            except OSError as error:
                if not is_passing(error):
                    raise
                log.error("the end of %s waits for %s: %s", ended.id, _awaited(error), error)
            self._check_claim(ended)
            self._ended(ended)  # removing its leftovers may free the missing room
            if self.stop.wait(ROOM_S):
                raise Stopping
            self._check_lease()


def _awaited(error: OSError) -> str:
    return "room on the store's disk" if is_disk_full(error) else "the store's disk"
