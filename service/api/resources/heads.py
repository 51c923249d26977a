"""Moves of head: ``/rollback``, and ``/snapshots/{id}/activate`` for staged versions."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from service.api.http.access import caller_of, needs
from service.api.http.auditing import concerns
from service.api.http.bodies import json_request_body, read_model
from service.api.http.problems import ApiProblem, documented
from service.api.http.worker_calls import result, worker_request
from service.api.jobs.events import current
from service.api.jobs.showing import cancel
from service.api.resources.snapshots import Ref
from service.api.state import ApiState, State
from service.contracts.jobs import JobStatus, Lane
from service.contracts.schemas import (
    ActivateRequest,
    Activation,
    RollbackRequest,
    RollbackResult,
)
from service.contracts.schemas.access import Scope
from service.store import Store

router = APIRouter(tags=["snapshots"])


@router.post(
    "/rollback/{id}",
    response_model=RollbackResult,
    responses=documented(400, 404, 409, 413, 415, 422, 503, 504),
    openapi_extra=json_request_body(RollbackRequest, optional=True),
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
    answer = await result(state, request, worker_request(state, "rollback", [target], details))
    cancelled = await _cancel(state, waiting)  # only once head has certainly moved
    moved = RollbackResult.model_validate({**answer, "cancelled_jobs": cancelled})
    headers = {"X-Model-Version": moved.version}
    return Response(moved.model_dump_json(), headers=headers, media_type="application/json")


@router.post(
    "/snapshots/{id}/activate",
    response_model=Activation,
    responses=documented(400, 404, 409, 413, 415, 422, 503, 504),
    openapi_extra=json_request_body(ActivateRequest, optional=True),
)
@needs(Scope.EDIT)
async def activate_snapshot(id: Ref, request: Request, state: State) -> Response:
    """Move head to a version that an edit with `activate: false` wrote, and answer when the model
    serves it.

    Head must still be the version's parent, else 409 (`version_conflict`).  An edit that is
    running fails at its end with `version_conflict`, as after a rollback.  Activating head again
    changes nothing.
    """
    body = await read_model(request, ActivateRequest, optional=True)
    target = await run_in_threadpool(state.store.names.resolve, id)
    concerns(request, target)
    await run_in_threadpool(_check_staged, state.store, target)
    await state.require_worker()
    details = {"why": body.why, "who": caller_of(request).id}
    asked = worker_request(state, "activate", [target], details)
    moved = Activation.model_validate(await result(state, request, asked))
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


def _check_staged(store: Store, target: str) -> None:
    """Refuse a version that already clearly cannot become head.

    Raises:
        ApiProblem: 409.
    """
    version = store.versions.read(target)
    head = store.head.read().version
    if not version.staged:
        detail = f"{version.id} was not staged; POST /rollback/{version.id} makes it head"
        raise ApiProblem("not_staged", detail)
    if head not in (version.parent, version.id):
        detail = (
            f"{version.id} was made on {version.parent}, but head is {head}: roll back to "
            f"{version.parent} first, or edit again"
        )
        raise ApiProblem("version_conflict", detail)
