"""``/livez`` and ``/readyz``."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass
from typing import Literal

from fastapi import APIRouter
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel

from service.api.http.access import public
from service.api.http.problems import (
    DENIED,
    NO_MODEL,
    NO_QUEUE,
    NO_WORKER,
    NOT_NOW,
    ApiProblem,
    documented,
)
from service.api.reconcile import QUEUE_DOWN
from service.api.state import ApiState, State
from service.queue import WorkerBeat
from service.store import CorruptFile, Head, Store, UnknownVersion, denial, is_denied

router = APIRouter(tags=["health"])
PATIENCE_S = 3.0


class Live(BaseModel):
    """The api answers."""

    status: Literal["ok"] = "ok"


class Ready(BaseModel):
    """Everything an edit needs is there.  ``worker`` is the worker's process id on its host."""

    status: Literal["ready"] = "ready"
    model: str
    head: str
    worker: int


@dataclass(frozen=True)
class Missing:
    """A missing part: ``queue``, ``worker``, ``model`` or ``head``."""

    part: str
    code: str
    message: str


@router.get("/livez")
@public
async def livez() -> Live:
    """Whether the api answers."""
    return Live()


@router.get("/readyz", responses=documented(503))
@public
async def readyz(state: State) -> Ready:
    """Whether queue, worker, model and head are all there, and head can be served.

    503 lists in `errors` all that is missing; `code` is that of the first.
    """
    missing: list[Missing] = []
    beat = await _beat(state, missing)
    head = await run_in_threadpool(_head, state.store, missing)
    if beat is not None and head is not None and head.version in beat.damaged:
        message = f"{head.version} is damaged and cannot be served: roll back to another version"
        missing.append(Missing("head", "corrupt_version", message))
    if missing or beat is None or head is None:
        raise _not_ready(missing)
    return Ready(model=beat.model, head=head.version, worker=beat.pid)


async def _beat(state: ApiState, missing: list[Missing]) -> WorkerBeat | None:
    """The worker's last heartbeat."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            beat = await state.queue.worker_alive()
    except QUEUE_DOWN:
        missing.append(Missing("queue", "no_queue", NO_QUEUE))
        return None
    if beat is None:
        missing.append(Missing("worker", "no_worker", NO_WORKER))
    return beat


def _head(store: Store, missing: list[Missing]) -> Head | None:
    """Head, where the store has a model."""
    try:
        if store.base.info() is None:
            missing.append(Missing("model", "no_model", NO_MODEL))
        return store.head.read()
    except UnknownVersion as error:
        missing.append(Missing("head", "no_head", str(error)))
    except CorruptFile as error:
        missing.append(Missing("head", "corrupt_file", str(error)))
    except OSError as error:
        if is_denied(error):
            missing.append(Missing("head", DENIED, denial(error, store.root)))
        else:
            message = f"head cannot be read now: {error.strerror or error}"
            missing.append(Missing("head", NOT_NOW, message))
    return None


def _not_ready(missing: list[Missing]) -> ApiProblem:
    detail = "; ".join(one.message for one in missing)
    errors = [asdict(one) for one in missing]
    return ApiProblem(missing[0].code, detail, errors, status=503)
