"""``/jobs``: the status of jobs, their events, and cancelling them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request
from fastapi.concurrency import run_in_threadpool
from sse_starlette import EventSourceResponse, ServerSentEvent

from service.api.http.access import caller_of, needs
from service.api.http.paging import AFTER, Limit, Page, take
from service.api.http.problems import ApiProblem, documented, error_event, event_stream
from service.api.jobs.events import current, follow
from service.api.jobs.showing import cancel, job_out
from service.api.state import ApiState, State
from service.contracts.jobs import TERMINAL, Job, JobKind, JobStatus
from service.contracts.schemas import JobOut
from service.contracts.schemas.access import Scope

router = APIRouter(tags=["jobs"])

EVENT_STREAM = {
    "description": "Server-sent events.",
    "content": event_stream("status", "progress", "error"),
}


@router.get("/jobs", responses=documented(422))
@needs(Scope.READ)
async def list_jobs(
    state: State,
    limit: Limit = 50,
    after: Annotated[str | None, Query(pattern=r"^job_[0-9A-Z]{26}$", description=AFTER)] = None,
    status: Annotated[list[JobStatus] | None, Query(description="Only these.")] = None,
    kind: JobKind | None = None,
) -> Page[JobOut]:
    """Jobs, newest first, without their results."""
    unfinished = set(JobStatus) - TERMINAL  # the store's record of these may be out of date
    wanted = None if status is None else {*status, *unfinished}
    jobs = state.store.journal.all(wanted, kind, after)
    found: list[Job] = []
    while len(found) <= limit:
        job = await run_in_threadpool(next, jobs, None)
        if job is None:
            break
        seen = await current(state, job)
        if status is None or seen.status in status:
            found.append(seen)
    taken, has_more = take(found, limit)
    data = [job_out(job).model_copy(update={"result": None}) for job in taken]
    return Page(data=data, has_more=has_more, next=data[-1].id if has_more else None)


@router.get("/jobs/{id}", responses=documented(404))
@needs(Scope.READ)
async def show_job(id: str, state: State) -> JobOut:
    """One job with its result."""
    return job_out(await current(state, await run_in_threadpool(state.store.journal.read, id)))


@router.get(
    "/jobs/{id}/events",
    response_class=EventSourceResponse,
    responses={200: EVENT_STREAM, **documented(404)},
)
@needs(Scope.READ)
async def job_events(
    id: str, request: Request, state: State, last_event_id: Annotated[str, Header()] = ""
) -> EventSourceResponse:
    """Events `status` (`{job_id, status, attempt, base_version, result, error}`) and `progress`
    (`{phase, done, total, eta_seconds}`).

    The stream ends after the terminal status, or after an `error` (Problem) if the job's record
    cannot be read.  `Last-Event-ID` continues after an event.
    """
    await run_in_threadpool(state.store.journal.read, id)
    events = _event_stream(state, request, id, last_event_id)
    return state.streams.answer(caller_of(request), events)


@router.post("/jobs/{id}/cancel", status_code=202, responses=documented(404, 409))
@needs(Scope.EDIT)
async def cancel_job(id: str, state: State) -> JobOut:
    """Ask a job to end.  A queued one ends at once, a running one at its next safe point."""
    job = await cancel(state, id)
    if job.status in (JobStatus.SUCCEEDED, JobStatus.FAILED):
        detail = f"the job has already ended as {job.status.value}"
        raise ApiProblem("job_finished", detail)
    return job_out(job)


async def _event_stream(
    state: ApiState, request: Request, job_id: str, last_id: str
) -> AsyncIterator[ServerSentEvent]:
    try:
        async with aclosing(follow(state, job_id, last_id)) as events:
            async for event in events:
                data = json.dumps(event.data, ensure_ascii=False, allow_nan=False)
                yield ServerSentEvent(data, event=event.name, id=event.id or None)
    except Exception as error:
        yield error_event(request, error)
