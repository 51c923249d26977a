"""The edit lane: one write job at a time, in order, each finished exactly once."""

from __future__ import annotations

import logging
import threading
from typing import Any

from pydantic import ValidationError
from redis.exceptions import RedisError

from jeep_core.errors import Cancelled, InvalidFacts, InvalidHParams, JeepError, NumericalError
from service.jobs import TERMINAL, Job, JobError, JobStatus, Progress, now
from service.queue import JobGone, JobQueue, Lease, LeaseLost, QueuedJob
from service.schemas import EditPayload, EditResult, Manifest
from service.settings import Settings
from service.store import (
    CorruptFile,
    CorruptTensor,
    HeadMoved,
    StaleFence,
    Store,
    StoreError,
    UnknownJob,
)
from service.worker.edits import EditRunner, JobControl
from service.worker.versions import VersionViews

log = logging.getLogger(__name__)
WAIT_MS = 500
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
        written = self._store.version_of_job(job.id)
        if written is not None:  # head may have moved on since that attempt
            job = job.model_copy(update={"base_version": written.parent})
        log.info("job %s begins, attempt %s, on %s", job.id, job.attempt, job.base_version)
        try:
            outcome = self._outcome(job, written)
        except Stopping:
            self._give_back(job)
            raise
        self._end(job, *outcome)

    def _give_back(self, job: Job) -> None:
        """A stop that was asked for is no failed attempt."""
        try:
            self._queue.give_back(job, self._lease.fence)
        except RedisError as error:
            log.warning("the interrupted attempt of %s counts: %s", job.id, error)

    def _outcome(
        self, job: Job, written: Manifest | None
    ) -> tuple[JobStatus, dict[str, Any] | None, JobError | None]:
        """Run a job to its end: status, result, error."""
        try:
            result = self._execute(job, written)
        except Cancelled:
            return JobStatus.CANCELLED, None, None
        except Refused as error:
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

    def _execute(self, job: Job, written: Manifest | None) -> EditResult:
        """Edit and commit, or complete what an interrupted attempt has ``written``."""
        if written is None:
            if job.attempt > self._settings.job_tries:
                tries = self._settings.job_tries
                raise Refused("too_many_tries", f"the worker died {tries} times during this job")
            parent = str(job.base_version)
            payload = EditPayload.model_validate(job.payload)
            self._check(payload, parent)
            control = JobControl(
                publish=lambda progress: self._publish(job.id, progress),
                checkpoint=lambda: self._checkpoint(job.id),
            )
            self._checkpoint(job.id)
            written, view = self._runner.run(job, parent, control)
            self._views.put(written.id, view)
        self._commit(job, written)
        return self._named(job, written)

    def _check(self, payload: EditPayload, parent: str) -> None:
        wanted = payload.parent and self._store.resolve(payload.parent)
        if wanted and wanted != parent:
            raise Refused("precondition_failed", f"head is {parent}, not {payload.parent}")
        name = payload.snapshot_name
        if name and name in self._store.names():
            raise Refused("name_taken", f"{name!r} already names {self._store.names()[name]}")

    def _commit(self, job: Job, manifest: Manifest) -> None:
        """Move head, unless this job has done so before."""
        if any(m.job_id == job.id and m.to == manifest.id for m in self._store.reflog()):
            return
        if self._lease.lost.is_set():
            raise LeaseLost("the lease is gone")
        try:
            self._store.move_head(
                manifest.id,
                expected=str(manifest.parent),
                job_id=job.id,
                fence=self._lease.fence,
                who="worker",
                why=f"edit {manifest.edit_id}",
            )
        except OSError as error:
            if self._store.head().job_id != job.id:
                raise
            log.error("%s is head; its reflog line is written later: %s", manifest.id, error)

    def _named(self, job: Job, manifest: Manifest) -> EditResult:
        """The result of a committed job: its version has the wished name or a warning."""
        assert manifest.result is not None
        name = EditPayload.model_validate(job.payload).snapshot_name
        if name is None:
            return manifest.result
        try:
            self._store.name_version(name, manifest.id)
        except (StoreError, OSError) as error:  # head has moved: the edit stands
            log.warning("%s is committed without its name: %s", manifest.id, error)
            unnamed = {"snapshot_name": None, "warnings": [f"not named {name!r}: {error}"]}
            return manifest.result.model_copy(update=unnamed)
        return manifest.result

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
        self._queue.finish(ended, self._lease.fence)
        log.info("job %s %s%s", job.id, status, f": {error.code}" if error else "")
