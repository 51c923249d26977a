"""The queue and the edit lane of a played worker: it ends when told, and waits when told."""

from __future__ import annotations

import threading
from collections.abc import Callable

from pydantic import BaseModel

from service.contracts.jobs import Job, Progress
from service.queue import JobQueue, QueuedJob
from service.worker.lanes.edit_lane import EditLane
from service.worker.lanes.lane import Work

VALUES = Progress(phase="values", done=1, total=2, eta_seconds=0.1)
LOOK_MS = 50


class PlayedQueue(JobQueue):
    """A queue that is never waited for long; ``when_empty`` is called if nothing is left."""

    when_empty: Callable[[], None] | None = None

    def next(self, wait_ms: float) -> QueuedJob | None:
        if self.when_empty is None:
            return super().next(min(wait_ms, LOOK_MS))
        queued = super().next(0)
        if queued is None:
            self.when_empty()
        return queued


class HeldLane(EditLane):
    """Jobs begin and publish some progress, then wait until ``go`` is set, if there is one."""

    go: threading.Event | None = None

    def _prepare(self, job: Job) -> tuple[Job, Work]:
        begun, work = super()._prepare(job)
        go = self.go
        if go is None:
            return begun, work

        def held() -> BaseModel:
            self._publish(begun.id, VALUES)
            while not go.wait(0.02):
                self._checkpoint(begun)
            return work()

        return begun, held
