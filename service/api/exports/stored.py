"""The stored tensors of a version that is to be exported."""

from __future__ import annotations

from contextlib import aclosing

from fastapi.concurrency import run_in_threadpool

from service.api.http.worker_calls import replies, worker_request
from service.api.state import ApiState
from service.store import Store


async def make_whole(state: ApiState, version: str) -> None:
    """See to it that a version's tensors are in the store, and stay for now.

    Raises:
        ApiProblem: the worker has to store them again: 503 without one, 504 if it takes too long,
            507 if the disk is full.
        StoreFull: the store may not grow.
    """
    if not await run_in_threadpool(_is_there, state.store, version):
        await _rebuilt(state, version)


def _is_there(store: Store, version: str) -> bool:
    """Whether a version's tensors are stored, and stay for now; False if they were dropped.

    Missing tensors of a version that is not thin are damage and do not lead to False.
    """
    return store.versions.want(version) or store.versions.thin(version) is None


async def _rebuilt(state: ApiState, version: str) -> None:
    """Have the worker store the tensors of a version again."""
    await run_in_threadpool(state.room.check)
    await state.require_worker()
    async with aclosing(replies(state, worker_request(state, "restore", [version], {}))) as said:
        async for _ in said:
            continue
