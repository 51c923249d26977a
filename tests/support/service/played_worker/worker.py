"""One life of a worker without a model: real queue, store, lease and lanes."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

from pydantic import BaseModel
from redis import Redis

from service.contracts.jobs import Lane
from service.ops.metrics_page import page_of
from service.queue import Heartbeat, Keys, Lease, QueueFailure, RequestQueue, WorkerBeat, connect
from service.settings import Settings
from service.store import Store
from service.store.maintenance.sweep import sweep
from service.worker.gate import Gate
from service.worker.lanes.lane import JobLane
from service.worker.lanes.read_lane import ReadLane, Task, runner_of
from service.worker.metrics import REGISTRY
from support.service.bundled_model import publish
from support.service.played_worker.answers import PlayedAnswers
from support.service.played_worker.computing import (
    NO_MODEL,
    NO_VIEWS,
    During,
    PlayedRunner,
    refuse,
)
from support.service.played_worker.lanes import HeldLane, PlayedQueue

Prepare = Callable[[Store], None]
Run = Callable[[Task], BaseModel]
Computing = Callable[[Store], tuple[Any, Any]]
MakeLane = Callable[["PlayedWorker"], JobLane]


def write_base(store: Store, weights: str) -> None:
    """Bring a store to the state that a worker needs."""
    store.create_base(weights)
    store.head.repair()


class PlayedWorker:
    """A worker's edit lane; `reading` makes one with the read lane, `of_api` one beside an api.

    ``during`` is what happens while an edit is computed.  ``computing`` gives the runner and the
    views of a real model, of which ``weights`` are base's.  ``prepare`` brings the store to the
    state that a worker needs; by default it writes base and repairs head.
    """

    def __init__(
        self,
        client: Redis,
        root: Path,
        during: During | None = None,
        *,
        weights: str = "weights-0",
        computing: Computing | None = None,
        settings: Settings | None = None,
        prepare: Prepare | None = None,
        make_lane: MakeLane | None = None,
        of: Lane = Lane.WRITE,
    ) -> None:
        self.client, self.settings = client, settings or Settings(store=root)
        self.store, self.gate, self.go = Store.open(root), Gate(1.0), threading.Event()
        self.go.set()
        (prepare or partial(write_base, weights=weights))(self.store)
        sweep(self.store)
        self.keys = Keys(self.store.id)
        self.lease = Lease(client, self.keys, self.settings)
        self.lease.acquire(self.store.head.read().fence)
        self.queue = PlayedQueue(client, self.keys, of)
        self.runner: Any
        self.views: Any
        self.runner, self.views = (
            computing(self.store) if computing else (PlayedRunner(self.store, during), NO_VIEWS)
        )
        self.lane = (make_lane or PlayedWorker._edit_lane)(self)
        self.queue.requeue_missing(self.store.journal.unfinished())

    @classmethod
    def reading(
        cls, client: Redis, root: Path, run: Run | None = None, base: Any = NO_MODEL
    ) -> Self:
        """A worker's read lane on the store as it is; ``run``, if given, runs every kind."""

        def lane(worker: PlayedWorker) -> JobLane:
            return worker._read_lane(worker.queue, run, base)

        return cls(client, root, prepare=lambda store: None, make_lane=lane, of=Lane.READ)

    @classmethod
    def of_api(cls, settings: Settings) -> Self:
        """A worker of the bundled model: ``with PlayedWorker.of_api(settings) as worker``.

        ``go`` cleared: edits wait until it is set again.
        """
        client = connect(str(settings.redis_url))
        return cls(client, settings.store, settings=settings, prepare=publish)

    def _edit_lane(self) -> JobLane:
        parts = (self.queue, self.store, self.lease, self.views, self.runner, self.settings)
        return HeldLane(*parts)

    def _read_lane(self, queue: PlayedQueue, run: Run | None, base: Any = NO_MODEL) -> JobLane:
        views: Any = SimpleNamespace(base=base)
        find = runner_of if run is None else lambda kind: run
        parts = (queue, self.store, self.lease, views, self.settings, self.gate)
        return ReadLane(*parts, find=find)

    # ------------------------------------------------------------ until nothing is left

    def work(self) -> Self:
        """Work until nothing is left to do, or until something breaks."""
        self.queue.when_empty = self.lane.stop.set
        try:
            self.lane.run()
        finally:
            with suppress(QueueFailure):
                self.lease.release()
        return self

    # ------------------------------------------------------------ in the background

    def __enter__(self) -> Self:
        started, instance = datetime.now(UTC), f"{os.getpid()}-{id(self)}"
        requests = RequestQueue(self.client, self.keys, instance)
        self.answers = PlayedAnswers(self.store, requests, self.lease.fence)
        self.asked, self.abandoned = self.answers.asked, self.answers.abandoned
        self.damaged: list[str] = []

        def beat() -> WorkerBeat:
            return WorkerBeat(
                instance=instance,
                pid=os.getpid(),
                model="atlas-gptj",
                started_at=started,
                damaged=self.damaged,
                head="v0",
            )

        self.heartbeat = Heartbeat(self.client, self.keys, beat, lambda: page_of(REGISTRY))
        self.heartbeat.start()
        self._running: list[tuple[threading.Thread, threading.Event]] = []
        assert isinstance(self.lane, HeldLane)
        self.lane.go = self.go
        self._begin(self.lane)
        self._begin(self.answers)
        return self

    def __exit__(self, *_: object) -> None:
        for _thread, stop in self._running:
            stop.set()
        self.go.set()
        for thread, _stop in self._running:
            thread.join(10)
        self.heartbeat.stop()
        self.lease.release()
        self.client.close()

    def refuse_reads(self) -> None:
        """Make jobs of the read lane fail from now on; otherwise they wait."""
        self._begin(self._read_lane(PlayedQueue(self.client, self.keys, Lane.READ), refuse))

    def _begin(self, part: JobLane | PlayedAnswers) -> None:
        thread = threading.Thread(target=part.run)
        thread.start()
        self._running.append((thread, part.stop))
