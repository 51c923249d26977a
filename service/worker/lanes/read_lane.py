"""The read lane: jobs that write no version, one at a time, after decoding and edits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pydantic import BaseModel

from jeep_core.executors.here import HERE
from jeep_core.executors.work import Executor
from jeep_core.models.loading import LoadedModel
from jeep_core.models.placement.moving import wait_for
from jeep_core.models.views import ModelView
from jeep_core.monitor import Monitor
from service.contracts.jobs import Job, JobKind, JobStatus, Lane
from service.queue import JobQueue
from service.settings import Settings
from service.store import Store
from service.worker.gate import Gate
from service.worker.lanes.control import JobControl
from service.worker.lanes.lane import JobLane, Right, Work
from service.worker.lanes.runners import load_runner
from service.worker.moments import SharedMoments
from service.worker.versions.views import VersionViews


@dataclass
class ReadControl(JobControl):
    """The communication of a running job with its surroundings.

    ``pause`` belongs between micro-batches: it ends the job if that was requested, and waits
    while an edit runs or something is decoded.  ``give_way`` may be called as often as possible:
    it ends the job, too, but waits for decoding alone, with what the micro-batch holds still in
    memory.
    """

    pause: Callable[[], None]
    give_way: Callable[[], None]

    @property
    def monitor(self) -> Monitor:
        """The job's surroundings as the library sees them; its ``check`` is ``pause``."""
        return Monitor(report=self.progress, check=self.pause, give_way=self.give_way)


@dataclass(frozen=True)
class Task:
    """The inputs of a runner.

    ``work`` is a folder for partial results: it is there when the job runs again after a crash,
    and removed when the job has ended.  ``moments`` are shared with the edit lane.
    ``job.attempt`` counts from 1.  ``executor`` does what is independent.
    """

    job: Job
    control: ReadControl
    base: LoadedModel
    views: VersionViews
    store: Store
    settings: Settings
    work: Path
    moments: SharedMoments
    executor: Executor = HERE

    def view(self, version: str) -> ModelView:
        """A separate view of a version: hooks on it do not affect other lanes.

        Raises:
            UnknownVersion, CorruptTensor
        """
        return ModelView(self.base, self.views.get(version).replaced)

    @cached_property
    def reports(self) -> Path:
        """A folder for files that the result names; removed if the job does not succeed."""
        return self.store.reports.folder(self.job.id)


Runner = Callable[[Task], BaseModel]
"""Does the work of one kind of job.

It raises ``Refused`` or an error of the library or the store to fail with a clear message; what
``control`` raises (cancel, stop, lost lease) must pass.
"""


def runner_of(kind: JobKind) -> Runner:
    """The runner for a kind of job.

    Raises:
        Refused: its jobs do not run in the read lane.
    """
    runner: Runner = load_runner(kind, Lane.READ)
    return runner


class ReadLane(JobLane):
    """Runs jobs on separate views."""

    def __init__(
        self,
        queue: JobQueue,
        store: Store,
        lease: Right,
        views: VersionViews,
        settings: Settings,
        gate: Gate,
        find: Callable[[JobKind], Runner] = runner_of,
        moments: SharedMoments | None = None,
        executor: Executor = HERE,
    ) -> None:
        super().__init__(queue, store, lease, settings)
        self._moments = moments or SharedMoments(views.base, store, settings)
        self._views, self._gate, self._find = views, gate, find
        self._executor = executor

    def _prepare(self, job: Job) -> tuple[Job, Work]:
        return job, lambda: self._execute(job)

    def _execute(self, job: Job) -> BaseModel:
        self._check_tries(job)
        self._check_room()
        control = ReadControl(
            publish=lambda progress: self._publish(job.id, progress),
            checkpoint=lambda: self._checkpoint(job),
            pause=lambda: self._pause(job),
            give_way=lambda: self._give_way(control.look),
        )
        control.pause()
        task = Task(
            job=job,
            control=control,
            base=self._views.base,
            views=self._views,
            store=self._store,
            settings=self._settings,
            work=self._store.drafts.work_folder(job.id),
            moments=self._moments,
            executor=self._executor,
        )
        self._store.reports.unseal(job.id)
        result = self._find(job.kind)(task)
        self._store.reports.seal(job.id)
        return result

    def _pause(self, job: Job) -> None:
        check = lambda: self._checkpoint(job)  # noqa: E731
        self._gate.wait_for_edit(check)
        self._give_way(check)

    def _give_way(self, look: Callable[[], None]) -> None:
        """Let decoding run first; ``look`` may raise to end the job."""
        self._steps += 1
        look()
        if self._gate.contended:
            wait_for(self._views.base.devices)  # queued kernels would still run
        self._gate.pause_reading(look)
        self._steps += 1

    def _ended(self, job: Job) -> None:
        self._store.drafts.drop(job.id)
        if job.status is not JobStatus.SUCCEEDED:
            self._store.reports.drop(job.id)
            self._store.exports.drop(job.id)
