"""``/workers``: the writer and its followers, as their heartbeats describe them."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel

from service.api.http.access import needs
from service.api.http.problems import documented
from service.api.state import ApiState, State, queue_or_503
from service.contracts.schemas import WorkerOut
from service.contracts.schemas.access import Scope
from service.queue import WorkerBeat
from service.store import Store, StoreError

router = APIRouter(tags=["health"])


class WorkerList(BaseModel):
    """The workers that were heard of in the last seconds, the writer first."""

    data: list[WorkerOut]


@router.get("/workers", responses=documented(503))
@needs(Scope.READ)
async def list_workers(state: State) -> WorkerList:
    """The workers that live: role, version, load, last heartbeat."""
    async with queue_or_503():
        return WorkerList(data=await workers(state))


async def workers(state: ApiState) -> list[WorkerOut]:
    """The workers that live.

    Raises:
        QueueDown, TimeoutError: the queue cannot be used now.
    """
    beats = await state.queue.workers()
    return described(beats, await run_in_threadpool(head_of, state.store))


def described(beats: Sequence[WorkerBeat], head: str | None) -> list[WorkerOut]:
    """Heartbeats as they are shown, where ``head`` is head now."""
    return [
        WorkerOut(
            instance=one.instance,
            role=one.role,
            state=one.state,
            host=one.host,
            pid=one.pid,
            release=one.release,
            device=one.device,
            started_at=one.started_at,
            heartbeat_age_s=one.age_s or 0.0,
            head=one.head,
            behind=head is not None and one.head != head,
            versions=one.versions,
            takes=one.takes,
            jobs=one.jobs,
            load=one.load,
            job=one.job,
            fetching=one.fetching,
        )
        for one in beats
    ]


def head_of(store: Store) -> str | None:
    """Head, None where it cannot be read."""
    try:
        return store.head.read().version
    except StoreError:
        return None
