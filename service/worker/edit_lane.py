"""The edit lane: one write job at a time, in order, each finished exactly once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from redis.exceptions import RedisError

from jeep_core.errors import Cancelled, InvalidFacts, InvalidHParams, JeepError, NumericalError
from service.history import without
from service.jobs import TERMINAL, Job, JobError, JobKind, JobStatus, Progress, now
from service.queue import JobGone, JobQueue, Lease, LeaseLost, QueuedJob
from service.schemas import EditPayload, EditResult, Manifest, RevertPayload, RevertResult
from service.settings import Settings
from service.store import (
    CorruptFile,
    CorruptTensor,
    HeadMoved,
    Move,
    StaleFence,
    Store,
    StoreError,
    UnknownJob,
)
from service.worker.control import JobControl
from service.worker.edits import EditRunner
from service.worker.guards import GuardFailed
from service.worker.reverts import Reverter, result_of
from service.worker.versions import VersionViews

log = logging.getLogger(__name__)
WAIT_MS = 500
Work = Callable[[], BaseModel]
Result = TypeVar("Result", EditResult, RevertResult)
COMMITTED = Progress(phase="commit", done=1, total=1, eta_seconds=0.0)


class Stopping(Exception):
    """The worker is going down; the job stays queued and runs again."""


class Refused(Exception):
    """The job ends as failed with this error."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.error = JobError(code=code, message=message)


class EditLane:
    """Takes jobs from the queue and commits them.  ``run`` returns when ``stop`` is set."""

    def __init__(
        self,
        queue: JobQueue,
        store: Store,
        lease: Lease,
        views: VersionViews,
        runner: EditRunner,
        settings: Settings,
    ) -> None:
        self._queue, self._store, self._lease = queue, store, lease
        self._views, self._runner, self._settings = views, runner, settings
        self._reverter = Reverter(store, runner)
        self._progress = Progress()
        self.stop = threading.Event()

    def run(self) -> None:
        """Work until stopped.

        Raises:
            LeaseLost: another worker has taken over.
            RedisError: the queue is away for longer than its client waits.
        """
        while not self.stop.is_set():
            if self._lease.lost.is_set():
                raise LeaseLost("the lease is gone")
            queued = self._queue.next(WAIT_MS)
            if queued is not None:
                try:
                    self._handle(queued)
                except Stopping:
                    return

    def _handle(self, queued: QueuedJob) -> None:
        try:
            recorded = self._store.job(queued.job.id)
        except (UnknownJob, CorruptFile) as error:
            log.error("dropped from the queue: %s", error)
            self._queue.drop(queued)
            return
        if recorded.status in TERMINAL:
            # ended in the store before a crash kept the queue from hearing of it
            self._queue.finish(recorded, self._lease.fence)
            return
        start = queued.job.model_copy(update={"base_version": self._store.head().version})
        try:
            job = self._queue.begin(start, self._lease.fence)
        except JobGone:
            return
        self._progress = job.progress
        job, work = self._prepare(job)
        log.info("job %s begins, attempt %s, on %s", job.id, job.attempt, job.base_version)
        try:
            outcome = self._outcome(job, work)
        except Stopping:
            self._give_back(job)
            raise
        self._end(job, *outcome)

    def _prepare(self, job: Job) -> tuple[Job, Work]:
        """The job with the version it started from, and the work that is left of it.

        Head may have moved on since an attempt that came to its end.
        """
        if job.kind is JobKind.REVERT:
            move = self._store.move_of(job.id)
            if move is not None:
                job = job.model_copy(update={"base_version": move.previous})
            return job, lambda: self._revert(job, move)
        written = self._store.version_of_job(job.id)
        if written is not None:
            job = job.model_copy(update={"base_version": written.parent})
        return job, lambda: self._edit(job, written)

    def _give_back(self, job: Job) -> None:
        """A stop that was asked for is no failed attempt."""
        try:
            self._queue.give_back(job, self._lease.fence)
        except RedisError as error:
            log.warning("the interrupted attempt of %s counts: %s", job.id, error)

    def _outcome(
        self, job: Job, work: Work
    ) -> tuple[JobStatus, dict[str, Any] | None, JobError | None]:
        """Run a job to its end: status, result, error."""
        try:
            result = work()
        except Cancelled:
            return JobStatus.CANCELLED, None, None
        except (Refused, GuardFailed) as error:
            return JobStatus.FAILED, None, error.error
        except HeadMoved as error:
            message = f"{error}: a rollback came in between, nothing was changed"
            return JobStatus.FAILED, None, JobError(code="version_conflict", message=message)
        except (LeaseLost, StaleFence, Stopping, RedisError):
            raise  # not the job's fault: it stays queued
        except (InvalidFacts, InvalidHParams) as error:
            problems = [vars(problem) for problem in error.problems]
            invalid = JobError(code="invalid_request", message=str(error), errors=problems)
            return JobStatus.FAILED, None, invalid
        except NumericalError as error:
            numerical = JobError(code="numerical_error", message=str(error))
            return JobStatus.FAILED, None, numerical
        except CorruptTensor as error:
            return JobStatus.FAILED, None, JobError(code="corrupt_version", message=str(error))
        except (JeepError, StoreError, ValidationError) as error:
            return JobStatus.FAILED, None, JobError(code="failed", message=str(error))
        except Exception as error:
            log.exception("job %s failed", job.id)
            message = f"{type(error).__name__}: {error}"
            return JobStatus.FAILED, None, JobError(code="internal_error", message=message)
        return JobStatus.SUCCEEDED, result.model_dump(mode="json"), None

    def _edit(self, job: Job, written: Manifest | None) -> EditResult:
        """Edit and commit, or complete what an interrupted attempt has ``written``."""
        payload = EditPayload.model_validate(job.payload)
        if written is None:
            self._check_tries(job)
            parent = str(job.base_version)
            self._check(payload, parent)
            self._checkpoint(job.id)
            written, view = self._runner.run(job, parent, self._control(job))
            self._views.put(written.id, view)
        if not written.staged and self._store.move_of(job.id) is None:
            self._commit(job, written.id, str(written.parent), f"edit {written.edit_id}")
        assert written.result is not None
        return self._named(written.result, payload.snapshot_name)

    def _revert(self, job: Job, move: Move | None) -> RevertResult:
        """Take a batch out of head's history, unless an interrupted attempt has made its ``move``.

        The version that becomes head is in memory before it does.
        """
        payload = RevertPayload.model_validate(job.payload)
        if move is None:
            self._check_tries(job)
            head = str(job.base_version)
            self._check(payload, head)
            parts = without(self._store.lineage(head), payload.edit_id)
            if parts is None:
                detail = f"{payload.edit_id} is not part of {head}, which is head"
                raise Refused("not_applied", detail)
            tip = self._reverter.run(job, *parts, self._control(job))
            self._views.get(tip.id)
            move = self._commit(job, tip.id, head, f"revert {payload.edit_id}")
        return self._named(result_of(self._store, job, move), payload.snapshot_name)

    def _control(self, job: Job) -> JobControl:
        return JobControl(
            publish=lambda progress: self._publish(job.id, progress),
            checkpoint=lambda: self._checkpoint(job.id),
        )

    def _check_tries(self, job: Job) -> None:
        """Give up a job that has killed every worker so far."""
        tries = self._settings.job_tries
        if job.attempt > tries:
            raise Refused("too_many_tries", f"the worker died {tries} times during this job")

    def _check(self, payload: EditPayload | RevertPayload, parent: str) -> None:
        wanted = payload.parent and self._store.resolve(payload.parent)
        if wanted and wanted != parent:
            raise Refused("precondition_failed", f"head is {parent}, not {payload.parent}")
        name = payload.snapshot_name
        if name and name in self._store.names():
            raise Refused("name_taken", f"{name!r} already names {self._store.names()[name]}")

    def _commit(self, job: Job, to: str, expected: str, why: str) -> Move:
        """Move head."""
        if self._lease.lost.is_set():
            raise LeaseLost("the lease is gone")
        try:
            head = self._store.move_head(
                to,
                expected=expected,
                job_id=job.id,
                fence=self._lease.fence,
                who="worker",
                why=why,
            )
        except OSError as error:
            head = self._store.head()
            if head.job_id != job.id:
                raise
            log.error("%s is head; its reflog line is written later: %s", to, error)
        return head.move

    def _named(self, result: Result, name: str | None) -> Result:
        """The result of a job that is done: its version has the wished name or a warning."""
        if name is None:
            return result
        try:
            self._store.name_version(name, result.version)
        except (StoreError, OSError) as error:  # head has moved: the work stands
            log.warning("%s is committed without its name: %s", result.version, error)
            warnings = [*result.warnings, f"not named {name!r}: {error}"]
            return result.model_copy(update={"snapshot_name": None, "warnings": warnings})
        return result.model_copy(update={"snapshot_name": name})

    def _publish(self, job_id: str, progress: Progress) -> None:
        """Tell how far a job is, if Redis takes it: an edit does not depend on that."""
        self._progress = progress
        try:
            self._queue.progress(job_id, progress)
        except RedisError as error:
            log.warning("progress of %s is not published: %s", job_id, error)

    def _checkpoint(self, job_id: str) -> None:
        if self._lease.lost.is_set():
            raise LeaseLost("the lease is gone")
        if self.stop.is_set():
            raise Stopping
        if self._store.cancel_requested(job_id) or self._queue.cancel_requested(job_id):
            raise Cancelled("cancelled on request")

    def _end(
        self,
        job: Job,
        status: JobStatus,
        result: dict[str, Any] | None,
        error: JobError | None,
    ) -> None:
        progress = COMMITTED if status is JobStatus.SUCCEEDED else self._progress
        update = {"status": status, "finished_at": now(), "progress": progress}
        ended = job.model_copy(update={**update, "result": result, "error": error})
        if self._lease.lost.is_set():
            raise LeaseLost("the lease is gone")
        self._store.save_job(ended)
        self._store.drop_drafts(job.id)
        self._queue.finish(ended, self._lease.fence)
        log.info("job %s %s%s", job.id, status, f": {error.message}" if error else "")
