"""Following a job: its events while Redis has them, its final state from the store."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress

from fastapi.concurrency import run_in_threadpool

from service.api.reconcile import PATIENCE_S, QUEUE_DOWN
from service.api.state import ApiState
from service.contracts.jobs import TERMINAL, Job, JobStatus
from service.contracts.wire import status_event
from service.queue import JobEvent, LiveJob

EVENT_ID = re.compile(r"[0-9]{1,15}(-[0-9]{1,15})?")
_PAUSE_S = 1.0


async def current(state: ApiState, job: Job) -> Job:
    """A stored job brought up to date with what Redis knows; as stored if Redis is unreachable."""
    if job.status in TERMINAL:
        return job
    live = await _live(state, job.id)
    if live is not None:
        if live.status in TERMINAL:
            # saved there before Redis
            job = await run_in_threadpool(state.store.journal.read, job.id)
        job = live.over(job)
    if job.status is JobStatus.QUEUED and state.store.journal.cancel_requested(job.id):
        return job.model_copy(update={"status": JobStatus.CANCELLING})
    return job


async def _live(state: ApiState, job_id: str) -> LiveJob | None:
    if state.reconciler.catching_up:  # Redis was unreachable a moment ago: do not wait again
        return None
    try:
        async with asyncio.timeout(PATIENCE_S):
            return await state.queue.live(job_id)
    except QUEUE_DOWN:
        state.reconciler.wake()
        return None


async def follow(state: ApiState, job_id: str, last_id: str = "") -> AsyncGenerator[JobEvent, None]:
    """Events after ``last_id`` up to and including the terminal status.

    A job that Redis has forgotten gives its final status once, with an empty event id.
    """
    last_id = last_id if EVENT_ID.fullmatch(last_id) else "0"
    while True:
        job = await run_in_threadpool(state.store.journal.read, job_id)
        if job.status in TERMINAL and not await state.queue.ping():
            yield _final(job)
            return
        try:
            async with aclosing(_events(state, job_id, last_id)) as events:
                async for event in events:
                    last_id = event.id
                    yield event
                    if event.is_last:
                        return
        except QUEUE_DOWN:
            state.reconciler.wake()
        job = await run_in_threadpool(state.store.journal.read, job_id)
        if job.status in TERMINAL:
            yield _final(job)
            return
        await asyncio.sleep(_PAUSE_S)


async def wait_for_end(state: ApiState, job_id: str, seconds: float) -> Job:
    """The job when it has ended, or as it is after ``seconds`` or when the api has to end."""
    with suppress(TimeoutError):
        async with (
            state.closing.limit(),
            asyncio.timeout(seconds),
            aclosing(follow(state, job_id)) as events,
        ):
            async for _ in events:
                pass
    return await current(state, await run_in_threadpool(state.store.journal.read, job_id))


def _events(state: ApiState, job_id: str, last_id: str) -> AsyncGenerator[JobEvent, None]:
    return state.queue.events(job_id, last_id)


def _final(job: Job) -> JobEvent:
    return JobEvent("", "status", json.loads(status_event(job)))
