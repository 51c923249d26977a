"""``/targets``: running servers of other projects that are kept at a version.

The api keeps what is said about them; the worker speaks to them.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from fastapi.concurrency import run_in_threadpool

from service.api.http.access import needs
from service.api.http.auditing import concerns
from service.api.http.bodies import json_request_body, read_model
from service.api.http.problems import ApiProblem, documented, field_error
from service.api.state import ApiState, State
from service.contracts.schemas.access import Scope
from service.contracts.schemas.targets import ChangeTarget, NewTarget, PushTarget
from service.contracts.schemas.targets import TargetList as TargetList
from service.ops.addresses import AddressRefused, Allowed
from service.store.targets.status import target_status

router = APIRouter(tags=["targets"])

Ref = Annotated[str, Path(description="Id or name of a target.")]


@router.get("/targets", responses=documented())
@needs(Scope.READ)
def list_targets(state: State) -> TargetList:
    """All targets with the version that each has, its lag and its last error."""
    store = state.store
    return TargetList(data=[target_status(store, one) for one in store.targets.all()])


@router.get("/targets/{id}", responses=documented(404))
@needs(Scope.READ)
def show_target(id: Ref, state: State) -> PushTarget:
    """One target.  `model` is the name by which its server is asked for `version`."""
    return target_status(state.store, state.store.targets.get(id))


@router.post(
    "/targets",
    status_code=201,
    response_model=PushTarget,
    responses=documented(400, 404, 409, 413, 415, 422, 507),
    openapi_extra=json_request_body(NewTarget),
)
@needs(Scope.ADMIN)
async def add_target(request: Request, response: Response, state: State) -> PushTarget:
    """Register a running server; the worker brings it to the version that it follows, and keeps it
    there after every edit and rollback.

    Nothing is sent before the worker has compared the base models: the outcome is seen in
    `GET /targets/{id}`.
    """
    wanted = await read_model(request, NewTarget)
    await run_in_threadpool(_check, state, wanted)
    concerns(request, await run_in_threadpool(state.store.names.resolve, wanted.follow))
    record = await run_in_threadpool(state.store.targets.add, wanted, state.settings.max_targets)
    response.headers["Location"] = f"/targets/{record.id}"
    return await run_in_threadpool(target_status, state.store, record)


@router.patch(
    "/targets/{id}",
    response_model=PushTarget,
    responses=documented(400, 404, 413, 415, 422, 507),
    openapi_extra=json_request_body(ChangeTarget),
)
@needs(Scope.ADMIN)
async def change_target(id: Ref, request: Request, state: State) -> PushTarget:
    """Let a target follow another version or name."""
    change = await read_model(request, ChangeTarget)
    concerns(request, await run_in_threadpool(state.store.names.resolve, change.follow))
    record = await run_in_threadpool(state.store.targets.follow, id, change.follow)
    return await run_in_threadpool(target_status, state.store, record)


@router.delete("/targets/{id}", status_code=204, responses=documented(404, 507))
@needs(Scope.ADMIN)
async def remove_target(id: Ref, state: State) -> Response:
    """Remove a target.  The worker unloads from its server what it has loaded there."""
    await run_in_threadpool(state.store.targets.remove, id)
    return Response(status_code=204)


@router.post(
    "/targets/{id}/sync",
    status_code=202,
    response_model=PushTarget,
    responses=documented(404, 507),
)
@needs(Scope.ADMIN)
async def sync_target(id: Ref, state: State) -> PushTarget:
    """Look at the server now, and try again what has failed, instead of waiting for the next try.

    The answer is the state before: `GET /targets/{id}` shows what came of it.
    """
    record = await run_in_threadpool(state.store.targets.ask, id)
    return await run_in_threadpool(target_status, state.store, record)


def _check(state: ApiState, wanted: NewTarget) -> None:
    """Refuse addresses that the worker would refuse.

    Raises:
        ApiProblem: 422.
    """
    try:
        Allowed(state.settings.targets_allow).place(wanted.address)
    except AddressRefused as error:
        raise ApiProblem(
            error.code, f"/address: {error}", [field_error("/address", error.code, str(error))]
        ) from None
    if wanted.secret is not None and state.settings.targets_secrets is None:
        said = "no folder of secrets is set: set JEEP_TARGETS_SECRETS for api and worker"
        raise ApiProblem(
            "no_secret", f"/secret: {said}", [field_error("/secret", "no_secret", said)]
        )
