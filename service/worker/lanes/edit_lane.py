"""The edit lane: jobs that write versions, strictly in order, each committed exactly once."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from service.contracts.jobs import Job, JobKind, JobStatus, Lane, Progress
from service.queue import JobQueue, Lease
from service.settings import Settings
from service.store import Move, Store
from service.worker.lanes.control import JobControl
from service.worker.lanes.lane import JobLane, Work
from service.worker.lanes.runners import load_runner
from service.worker.lanes.write_task import WriteTask
from service.worker.versions.views import VersionViews

COMMITTED = Progress(phase="commit", done=1, total=1, eta_seconds=0.0)

Writer = Callable[[WriteTask[Any]], tuple[Job, Work]]
"""Brings a job that has begun up to date, and returns its remaining work.

The work raises ``Refused`` or an error of the library or the store to fail with a clear message;
what ``control`` raises (cancel, stop, lost lease) must pass.
"""


class After(Protocol):
    """A function that is called after a job."""

    def __call__(self, *, whole: bool) -> None:
        """``whole``: the job did not succeed, and may have left something."""


def ignored(*, whole: bool) -> None:
    """Nothing is done after a job."""


def writer_of(kind: JobKind) -> Writer:
    """The runner for a kind of job.

    Raises:
        Refused: its jobs write no version.
    """
    runner: Writer = load_runner(kind, Lane.WRITE)
    return runner


class EditLane(JobLane):
    """Runs jobs that compute versions, and commits them.

    ``edits`` computes versions; it is passed to the runners of all kinds.
    """

    def __init__(
        self,
        queue: JobQueue,
        store: Store,
        lease: Lease,
        views: VersionViews,
        edits: Any,
        settings: Settings,
        working: Callable[[], AbstractContextManager[None]] = nullcontext,
        ended: After = ignored,
        find: Callable[[JobKind], Writer] = writer_of,
    ) -> None:
        super().__init__(queue, store, lease, settings, working)
        self._writer = lease
        self._views, self._edits, self._after, self._find = views, edits, ended, find

    def _start(self, job: Job) -> Job:
        return job.model_copy(update={"base_version": self._store.head.read().version})

    def _prepare(self, job: Job) -> tuple[Job, Work]:
        task = WriteTask(
            job=job,
            control=JobControl(
                publish=lambda progress: self._publish(job.id, progress),
                checkpoint=lambda: self._checkpoint(job),
            ),
            store=self._store,
            views=self._views,
            edits=self._edits,
            move=self._store.head.move_of(job.id),
            check_limits=lambda: self._check_limits(job),
            commit=lambda to, expected, why: self._commit(job.id, to, expected, why),
        )
        return self._find(job.kind)(task)

    def _check_limits(self, job: Job) -> None:
        self._check_tries(job)
        self._check_room()

    def _commit(self, job_id: str, to: str, expected: str, why: str) -> Move:
        """Move head."""
        self._check_lease()
        head = self._store.head.move(
            to,
            expected=expected,
            job_id=job_id,
            fence=self._writer.fence,
            who="worker",
            why=why,
        )
        return head.move

    def _ended(self, job: Job) -> None:
        self._store.drafts.drop(job.id)
        self._after(whole=job.status is not JobStatus.SUCCEEDED)

    def _last_progress(self, status: JobStatus) -> Progress:
        return COMMITTED if status is JobStatus.SUCCEEDED else super()._last_progress(status)
