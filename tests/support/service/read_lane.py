"""The read lane with a real queue and a real store."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from pydantic import BaseModel
from redis import Redis

from service.contracts.jobs import Lane
from service.queue import Keys, Lease, QueueFailure, scripts
from service.settings import Settings
from service.store import Store
from service.store.maintenance.sweep import sweep
from service.worker.lanes.gate import Gate
from service.worker.lanes.read_lane import ReadLane, Task
from support.service.edit_lane import Draining

NO_MODEL = SimpleNamespace(device=torch.device("cpu"))


class Worker:
    """One life of a worker's read lane; ``during``, if given, is the runner of every kind."""

    def __init__(
        self,
        client: Redis,
        root: Path,
        during: Callable[[Task], BaseModel] | None = None,
        base: Any = NO_MODEL,
    ) -> None:
        self.store = Store.open(root)
        sweep(self.store)
        settings, keys = Settings(store=root), Keys(self.store.id)
        self.lease = Lease(client, keys, settings)
        self.lease.acquire(self.store.head.read().fence)
        self.queue, self.gate = Draining(client, keys, Lane.READ), Gate(1.0)
        views: Any = SimpleNamespace(base=base)
        runners = {} if during is None else {"find": lambda kind: during}
        self.lane = ReadLane(
            self.queue, self.store, self.lease, views, settings, self.gate, **runners
        )
        self.queue.lane = self.lane
        self.queue.requeue_missing(self.store.journal.unfinished())

    def work(self) -> Worker:
        try:
            self.lane.run()
        finally:
            with suppress(QueueFailure):
                self.lease.release()
        return self


def cancel(client: Redis, store: Store, job_id: str) -> None:
    keys, args = scripts.cancel(Keys(store.id), job_id, Lane.READ)
    client.eval(scripts.CANCEL, len(keys), *keys, *args)
