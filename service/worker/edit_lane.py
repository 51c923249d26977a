"""The edit lane: jobs that write versions, strictly in order, each committed exactly once."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from service.jobs import Job, JobStatus, Progress
from service.queue import JobQueue, Lease, LeaseLost
from service.schemas import EditPayload, EditResult, Manifest
from service.settings import Settings
from service.store import Store, StoreError
from service.worker.edits import EditRunner, JobControl
from service.worker.lane import JobLane, Refused, Work
from service.worker.versions import VersionViews

log = logging.getLogger(__name__)
COMMITTED = Progress(phase="commit", done=1, total=1, eta_seconds=0.0)


class EditLane(JobLane):
    """Computes edits and commits them."""

    def __init__(
        self,
        queue: JobQueue,
        store: Store,
        lease: Lease,
        views: VersionViews,
        runner: EditRunner,
        settings: Settings,
        working: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        super().__init__(queue, store, lease, settings, working)
        self._views, self._runner = views, runner

    def _start(self, job: Job) -> Job:
        return job.model_copy(update={"base_version": self._store.head().version})

    def _prepare(self, job: Job) -> tuple[Job, Work]:
        written = self._store.version_of_job(job.id)
        if written is not None:  # head may have moved on since that attempt
            job = job.model_copy(update={"base_version": written.parent})
        return job, lambda: self._execute(job, written)

    def _execute(self, job: Job, written: Manifest | None) -> EditResult:
        """Edit and commit, or complete what an interrupted attempt has ``written``."""
        if written is None:
            self._check_tries(job)
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

    def _last_progress(self, status: JobStatus) -> Progress:
        return COMMITTED if status is JobStatus.SUCCEEDED else super()._last_progress(status)
