"""``/edits/{id}/revert``: take one batch out of head's history."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Request, Response
from fastapi.concurrency import run_in_threadpool

from service.api.http.access import caller_of, needs
from service.api.http.bodies import json_request_body, read_model
from service.api.http.problems import ApiProblem, documented, field_error, invalid
from service.api.resources.edits import accepted, job_of_edit
from service.api.state import ApiState, State
from service.api.submission.jobs import check_key, check_now, journaled, known_parent
from service.api.submission.validation import RESERVED_NAMES, reserved
from service.contracts.jobs import TERMINAL, Job, JobKind
from service.contracts.schemas import JobOut, RevertPayload, RevertRequest
from service.contracts.schemas.access import Scope
from service.store.base.moments import check_again
from service.store.history import without

router = APIRouter(tags=["edits"])


@router.post(
    "/edits/{id}/revert",
    status_code=202,
    response_model=JobOut,
    responses={
        200: {"description": "The job, which has ended.", "model": JobOut},
        **documented(400, 404, 409, 412, 413, 415, 422, 429, 503, 507),
    },
    openapi_extra=json_request_body("RevertRequest", optional=True),
)
@needs(Scope.EDIT)
async def revert_edit(
    id: str,
    request: Request,
    state: State,
    idempotency_key: Annotated[str | None, Header()] = None,
    prefer: Annotated[str, Header(description="`wait=N`")] = "",
) -> Response:
    """Queue a job that removes a batch: head goes to the version before it, and the later
    batches are applied again in their order, from the facts and hyper-parameters they were
    recorded with.  Head moves once, at the end; until then the model answers as before.

    The batch must be part of head's history, else 409 (`not_applied`).  Removing the last one
    leads back to its parent, bit for bit.  Nothing is deleted: a rollback to the version that was
    head undoes the revert.  `Idempotency-Key` and `Prefer` work as for edits.
    """
    check_key(idempotency_key)
    body = await read_model(request, RevertRequest, optional=True)
    job, fresh = await run_in_threadpool(_record, state, id, body, idempotency_key)
    if fresh:
        await state.reconciler.submit(job)
    return await accepted(state, caller_of(request), job, fresh, prefer)


def _record(
    state: ApiState, edit_id: str, body: RevertRequest, key: str | None
) -> tuple[Job, bool]:
    """Journal a revert; False if ``key`` already belongs to it.

    Raises:
        ApiProblem: 404, 409, 412, 422, 429, 507.
    """
    edit = job_of_edit(state.store, edit_id)
    parent = known_parent(state, body.parent)
    if body.snapshot_name and RESERVED_NAMES.fullmatch(body.snapshot_name):
        message = reserved(body.snapshot_name)
        raise invalid([field_error("/snapshot_name", "reserved_name", message)])

    def payload(_: str) -> RevertPayload:
        check_now(state, parent, body.snapshot_name)
        _check_applied(state, edit, edit_id)
        return RevertPayload(edit_id=edit_id, parent=parent, snapshot_name=body.snapshot_name)

    said = {"revert": edit_id, **body.model_dump(mode="json")}
    return journaled(state, JobKind.REVERT, payload, key, said)


def _check_applied(state: ApiState, edit: Job, edit_id: str) -> None:
    head = state.store.head.read().version
    parts = without(state.store.versions.lineage(head), edit_id)
    if parts is None:
        ended = edit.status in TERMINAL
        why = "" if ended else f"; its job {edit.id} has not ended: wait for it, or cancel it"
        detail = f"{edit_id} is not part of {head}, which is head{why}"
        raise ApiProblem("not_applied", detail)
    info = state.store.base.info()
    if info is not None:
        check_again(state.store.base, info, parts[1])
