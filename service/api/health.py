"""``/livez`` and ``/readyz``."""

from __future__ import annotations

import asyncio
from typing import Literal

from fastapi import APIRouter
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel

from service.api.access import public
from service.api.problems import documented, unavailable
from service.api.reconcile import QUEUE_DOWN
from service.api.state import State
from service.store import UnknownVersion

router = APIRouter(tags=["health"])


class Live(BaseModel):
    """The api answers."""

    status: Literal["ok"] = "ok"


class Ready(BaseModel):
    """Everything an edit needs is there.  ``worker`` is the worker's process id on its host."""

    status: Literal["ready"] = "ready"
    model: str
    head: str
    worker: int


@router.get("/livez")
@public
async def livez() -> Live:
    """Whether the api answers."""
    return Live()


@router.get("/readyz", responses=documented(503))
@public
async def readyz(state: State) -> Ready:
    """Whether store, queue and worker are all there; 503 says what is missing."""
    try:
        async with asyncio.timeout(3):
            beat = await state.queue.worker_alive()
    except QUEUE_DOWN:
        raise unavailable("no_queue", "the queue cannot be reached now") from None
    if beat is None:
        raise unavailable("no_worker", "no worker is running now")
    try:
        head = await run_in_threadpool(state.store.head)
    except UnknownVersion:
        raise unavailable("no_model", "no worker has loaded a model yet") from None
    return Ready(model=beat.model, head=head.version, worker=beat.pid)
