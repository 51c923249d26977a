"""``/snapshots/{id}/activate``: make a staged version head."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool

from service.api.http.access import caller_of, needs
from service.api.http.auditing import concerns
from service.api.http.bodies import json_request_body, read_model
from service.api.http.problems import ApiProblem, documented
from service.api.http.worker_calls import ClientGone, result, worker_request
from service.api.resources.generate import CLIENT_CLOSED_REQUEST
from service.api.resources.snapshots import Ref
from service.api.state import State
from service.contracts.schemas import ActivateRequest, Activation
from service.contracts.schemas.access import Scope
from service.store import Store

router = APIRouter(tags=["snapshots"])


@router.post(
    "/snapshots/{id}/activate",
    response_model=Activation,
    responses=documented(400, 404, 409, 413, 415, 422, 503, 504),
    openapi_extra=json_request_body("ActivateRequest", optional=True),
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
    await run_in_threadpool(_check, state.store, target)
    await state.require_worker()
    details = {"why": body.why, "who": caller_of(request).id}
    asked = worker_request(state, "activate", [target], details)
    try:
        moved = Activation.model_validate(await result(state, request, asked))
    except ClientGone:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    headers = {"X-Model-Version": moved.version}
    return Response(moved.model_dump_json(), headers=headers, media_type="application/json")


def _check(store: Store, target: str) -> None:
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
