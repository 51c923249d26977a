"""The state shared by all routes: settings, store, queue, the published model."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from service.api.http.limits import Closing, Streams, check_queue
from service.api.http.problems import NO_QUEUE, NO_WORKER, unavailable
from service.api.http.sessions import Sessions
from service.api.model import ModelCache
from service.api.reconcile import QUEUE_DOWN, Reconciler
from service.queue import AsyncQueue
from service.settings import Settings
from service.store import Store
from service.store.maintenance.room import Room


@dataclass(frozen=True)
class ApiState:
    """The parts of one running api."""

    settings: Settings
    store: Store
    queue: AsyncQueue
    models: ModelCache
    reconciler: Reconciler
    streams: Streams
    closing: Closing
    room: Room
    sessions: Sessions

    def check_room(self) -> None:
        """Check that another job is allowed, before it is journaled; may read the whole store.

        Raises:
            ApiProblem: 429 if too many jobs wait.
            StoreFull: the store may not grow; answered with 507.
        """
        check_queue(self.store, self.settings)
        self.room.check()

    async def require_worker(self) -> None:
        """Refuse immediately if the writer is not alive, which alone changes something.

        Raises:
            ApiProblem: 503 without it, or without a queue.
        """
        with_worker = None
        async with queue_or_503():
            with_worker = await self.queue.worker_alive()
        if with_worker is None:
            raise unavailable("no_worker", NO_WORKER)

    async def require_any_worker(self) -> None:
        """Refuse immediately if neither the writer nor a follower is alive.

        Raises:
            ApiProblem: 503 without any, or without a queue.
        """
        async with queue_or_503():
            found = await self.queue.workers()
        if not found:
            raise unavailable("no_worker", NO_WORKER)


@asynccontextmanager
async def queue_or_503() -> AsyncIterator[None]:
    """Turn a queue that does not answer into a 503."""
    try:
        yield
    except QUEUE_DOWN:
        raise unavailable("no_queue", NO_QUEUE) from None


def _state(request: Request) -> ApiState:
    state: ApiState = request.app.state.api
    return state


State = Annotated[ApiState, Depends(_state)]
