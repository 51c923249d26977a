"""A kind of job as a contributor writes it: models, a runner, a registry entry, a resource."""

from pathlib import Path
from typing import Annotated

import pytest
from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse
from pydantic import BaseModel

from service.api.http.access import needs
from service.api.http.bodies import DESCRIBED, json_request_body, read_model
from service.api.http.paging import Limit, Page
from service.api.jobs.resource import JobResource
from service.api.jobs.submitting import KeyHeader, check_key
from service.api.state import State
from service.contracts.codes import STATUS
from service.contracts.jobs import Job, JobKind, Lane
from service.contracts.kinds import KindSpec
from service.contracts.schemas import JobOut
from service.contracts.schemas.access import Scope
from service.worker.failures import Refused
from service.worker.lanes.read_lane import Task

COUNTING = KindSpec(
    "counting",
    Lane.READ,
    f"{__name__}:CountPayload",
    f"{__name__}:CountResult",
    f"{__name__}:run",
    path="/counts",
    prefix="count_",
    reports=("numbers-*.txt",),
)


class CountRequest(BaseModel):
    """``POST /counts``."""

    to: int


class CountPayload(CountRequest):
    """Payload of a counting job."""

    count_id: str


class CountResult(BaseModel):
    """Result of a counting job."""

    counted: int
    files: list[str]


class CountSummary(BaseModel):
    """A count in ``GET /counts``."""

    id: str
    status: str


def run(task: Task) -> CountResult:
    """Count, and write the numbers down."""
    payload = CountPayload.model_validate(task.job.payload)
    if payload.to < 0:
        raise Refused("no_cases", "there is nothing to count: give a number above 0")
    for number in range(1, payload.to + 1):
        task.control.pause()
        task.control.progress("count", number, payload.to)
    (task.reports / "numbers-1.txt").write_text(" ".join(map(str, range(1, payload.to + 1))))
    return CountResult(counted=payload.to, files=["numbers-1.txt"])


def register(patch: pytest.MonkeyPatch, spec: KindSpec) -> JobKind:
    """Add an entry to the registry until the end of the test.

    The members of an enumeration are fixed when its class is made, and models and codes are
    made of them: a real entry needs none of this.
    """
    kind: JobKind = JobKind.__new_member__(JobKind, spec)  # type: ignore[attr-defined]
    kind._name_ = spec.name.upper()
    patch.setitem(JobKind._member_map_, kind._name_, kind)
    patch.setitem(JobKind._value2member_map_, spec.name, kind)
    patch.setattr(JobKind, "_member_names_", [*JobKind._member_names_, kind._name_])
    patch.setitem(DESCRIBED, "CountRequest", CountRequest)
    patch.setitem(STATUS, f"unknown_{spec.name}", 404)  # type: ignore[arg-type]
    know_kinds()
    return kind


def know_kinds() -> None:
    """Make the models take the kinds that there are now."""
    for model in (Job, JobOut):
        model.model_rebuild(force=True)


def resource(kind: JobKind) -> APIRouter:
    """The routes of ``/counts``."""
    router = APIRouter(tags=["counts"])
    counts = JobResource[CountPayload, CountResult](kind)

    @router.post("/counts", status_code=202, openapi_extra=json_request_body(CountRequest))
    @needs(counts.scope)
    async def submit_count(
        request: Request, response: Response, state: State, idempotency_key: KeyHeader = None
    ) -> JobOut:
        check_key(idempotency_key)
        body = await read_model(request, CountRequest)

        def payload(job_id: str) -> CountPayload:
            return CountPayload(to=body.to, count_id=counts.id_of(job_id))

        said = {"count": body.model_dump()}
        job, fresh = await run_in_threadpool(
            counts.journaled, state, payload, idempotency_key, said
        )
        return await counts.submit(state, request, response, job, fresh)

    @router.get("/counts")
    @needs(Scope.READ)
    async def list_counts(
        state: State,
        limit: Limit = 50,
        after: Annotated[str | None, Query(pattern=counts.id_pattern)] = None,
    ) -> Page[CountSummary]:
        return await counts.page(state, limit, after, lambda job: CountSummary(**counts.shown(job)))

    @router.get("/counts/{id}")
    @needs(Scope.READ)
    async def show_count(id: str, state: State) -> dict[str, object]:
        job = await counts.find(state, id)
        return {**counts.shown(job), "to": counts.payload(job).to}

    @router.get("/counts/{id}/files/{name}")
    @needs(Scope.READ)
    async def count_file(id: str, name: str, state: State) -> FileResponse:
        job, _ = await counts.ended(state, id)
        path: Path = await counts.report(state, job, name)
        return FileResponse(path)

    return router
