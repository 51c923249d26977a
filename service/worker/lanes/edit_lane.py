"""The edit lane: jobs that write versions, strictly in order, each committed exactly once."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

from service.contracts.jobs import Job, JobKind, JobStatus, Progress
from service.contracts.schemas import EditPayload, EditResult, Manifest, RevertPayload, RevertResult
from service.queue import JobQueue, Lease
from service.settings import Settings
from service.store import Move, NameTaken, Store, StoreError
from service.store.history import without
from service.worker.failures import Refused
from service.worker.kinds.edits import EditRunner
from service.worker.kinds.reverts import Reverter, result_of
from service.worker.lanes.control import JobControl
from service.worker.lanes.lane import JobLane, Work
from service.worker.versions.views import VersionViews

log = logging.getLogger(__name__)
Result = TypeVar("Result", EditResult, RevertResult)
COMMITTED = Progress(phase="commit", done=1, total=1, eta_seconds=0.0)


class EditLane(JobLane):
    """Computes edits and reverts, and commits them."""

    def __init__(
        self,
        queue: JobQueue,
        store: Store,
        lease: Lease,
        views: VersionViews,
        runner: EditRunner,
        settings: Settings,
        working: Callable[[], AbstractContextManager[None]] = nullcontext,
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(queue, store, lease, settings, working)
        self._views, self._runner, self._after = views, runner, ended
        self._reverter = Reverter(store, runner)

    def _start(self, job: Job) -> Job:
        return job.model_copy(update={"base_version": self._store.head.read().version})

    def _prepare(self, job: Job) -> tuple[Job, Work]:
        """Return the job with the version it started from, and its remaining work.

        Head may have moved since an earlier attempt that finished its work.
        """
        move = self._store.head.move_of(job.id)
        if job.kind is JobKind.REVERT:
            if move is not None:
                job = job.model_copy(update={"base_version": move.previous})
            return job, lambda: self._revert(job, move)
        written = self._store.versions.of_job(job.id)
        if written is not None:
            job = job.model_copy(update={"base_version": written.parent})
        return job, lambda: self._edit(job, written, move)

    def _edit(self, job: Job, written: Manifest | None, move: Move | None) -> EditResult:
        """Edit and commit, or complete what an interrupted attempt has ``written`` or moved."""
        payload = EditPayload.model_validate(job.payload)
        if written is None:
            self._check_tries(job)
            self._check_room()
            parent = str(job.base_version)
            self._check(payload, parent)
            self._checkpoint(job.id)
            written, view = self._runner.run(job, parent, self._control(job))
            self._views.put(written.id, view)
        if not written.staged and move is None:
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
            self._check_room()
            head = str(job.base_version)
            self._check(payload, head)
            parts = without(self._store.versions.lineage(head), payload.edit_id)
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

    def _check(self, payload: EditPayload | RevertPayload, parent: str) -> None:
        wanted = payload.parent and self._store.names.resolve(payload.parent)
        if wanted and wanted != parent:
            raise Refused(
                "precondition_failed",
                f"head is {parent}, not {payload.parent}: send it again with the new parent, or "
                "without one",
            )
        name = payload.snapshot_name
        if name and name in self._store.names.all():
            raise Refused("name_taken", str(NameTaken(name, self._store.names.all()[name])))

    def _commit(self, job: Job, to: str, expected: str, why: str) -> Move:
        """Move head."""
        self._check_lease()
        head = self._store.head.move(
            to,
            expected=expected,
            job_id=job.id,
            fence=self._lease.fence,
            who="worker",
            why=why,
        )
        return head.move

    def _named(self, result: Result, name: str | None) -> Result:
        """The result of a finished job: its version has the requested name, or a warning."""
        if name is None:
            return result
        try:
            self._store.names.give(name, result.version)
        except (StoreError, OSError) as error:  # head has moved: the edit remains valid
            log.warning("%s is committed without its name: %s", result.version, error)
            warnings = [*result.warnings, f"not named {name!r}: {error}"]
            return result.model_copy(update={"snapshot_name": None, "warnings": warnings})
        return result.model_copy(update={"snapshot_name": name})

    def _ended(self, job: Job) -> None:
        self._store.drafts.drop(job.id)
        self._after()

    def _last_progress(self, status: JobStatus) -> Progress:
        return COMMITTED if status is JobStatus.SUCCEEDED else super()._last_progress(status)
