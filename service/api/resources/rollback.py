"""``/rollback``: move head to another version."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from service.api.http.access import caller_of, needs
from service.api.http.auditing import concerns
from service.api.http.bodies import json_request_body, read_model
from service.api.http.job_events import current
from service.api.http.problems import documented
from service.api.http.worker_calls import ClientGone, result, worker_request
from service.api.resources.generate import CLIENT_CLOSED_REQUEST
from service.api.resources.jobs import cancel
from service.api.resources.snapshots import Ref
from service.api.state import ApiState, State
from service.contracts.jobs import JobStatus, Lane
from service.contracts.schemas import RollbackRequest, RollbackResult
from service.contracts.schemas.access import Scope

router = APIRouter(tags=["snapshots"])


@router.post(
    "/rollback/{id}",
    response_model=RollbackResult,
    responses=documented(400, 404, 409, 413, 415, 422, 503, 504),
    openapi_extra=json_request_body("RollbackRequest", optional=True),
)
@needs(Scope.EDIT)
async def roll_back(
    id: Ref,
    request: Request,
    state: State,
    queued: Annotated[
        Literal["keep", "cancel"], Query(description="What becomes of edits not yet begun.")
    ] = "keep",
) -> Response:
    """Move head and answer when the model serves it.  Nothing is deleted.

    An edit that is running fails at its end with `version_conflict`; queued jobs start from
    the new head unless they are cancelled.
    """
    body = await read_model(request, RollbackRequest, optional=True)
    target = await run_in_threadpool(state.store.names.resolve, id)
    concerns(request, target)
    await state.require_worker()
    waiting = await _queued(state) if queued == "cancel" else []
    details = {"why": body.why, "ref": id, "who": caller_of(request).id}
    try:
        answer = await result(state, request, worker_request(state, "rollback", [target], details))
    except ClientGone:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    cancelled = await _cancel(state, waiting)  # only once head has certainly moved
    moved = RollbackResult.model_validate({**answer, "cancelled_jobs": cancelled})
    headers = {"X-Model-Version": moved.version}
    return Response(moved.model_dump_json(), headers=headers, media_type="application/json")


async def _queued(state: ApiState) -> list[str]:
    """The ids of the jobs of the write lane that have not begun."""
    unfinished = await run_in_threadpool(state.store.journal.unfinished)
    writers = [job for job in unfinished if job.kind.lane is Lane.WRITE]
    return [job.id for job in writers if (await current(state, job)).status is JobStatus.QUEUED]


async def _cancel(state: ApiState, job_ids: list[str]) -> list[str]:
    """Cancel jobs, even if begun meanwhile; return the ids of those cancelled or cancelling."""
    ending = (JobStatus.CANCELLED, JobStatus.CANCELLING)
    return [job_id for job_id in job_ids if (await cancel(state, job_id)).status in ending]
