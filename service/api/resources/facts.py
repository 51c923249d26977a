"""``/facts``: which edit governs what the model says about a subject; ``/checks``: whether it
still says it.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse
from pydantic import Field

from service.api.http.access import needs
from service.api.http.bodies import json_request_body, read_model
from service.api.http.paging import AFTER, Limit, Page, take
from service.api.http.problems import documented, field_error, invalid
from service.api.jobs.resource import JobResource
from service.api.jobs.submitting import KeyHeader, PreferHeader, check_key, submit_and_wait
from service.api.state import ApiState, State
from service.contracts.jobs import Job, JobKind
from service.contracts.schemas import FactEntry, JobOut
from service.contracts.schemas.access import Scope
from service.contracts.schemas.effects.checks import (
    MISSING_FILE,
    Check,
    CheckPayload,
    CheckRequest,
    CheckResult,
    CheckSummary,
)
from service.store import UnknownVersion
from service.store.index import listing
from service.store.index.facts import Place

router = APIRouter(tags=["facts"])
CHECKS = JobResource[CheckPayload, CheckResult](JobKind.CHECK)

LONGEST_SEARCH = 200
LONGEST_NAME = 80
"""Of a subject or an id that an error repeats."""
NUMBER = r"(0|[1-9]\d{0,17})"


class FactPage(Page[FactEntry]):
    """One page of a version's facts, those of the latest batch first."""

    version: str = Field(description="Whose facts these are.")


@router.get("/facts", responses=documented(404, 422))
@needs(Scope.READ)
def list_facts(
    state: State,
    response: Response,
    subject: Annotated[
        str | None, Query(description="Compared in Unicode NFC and without white space around.")
    ] = None,
    version: Annotated[
        str, Query(description="A version id, a snapshot name, or `head`.")
    ] = "head",
    contains: Annotated[
        str | None,
        Query(
            max_length=LONGEST_SEARCH,
            description="Only facts whose subject, prompt or new answer contains this text, "
            "whatever the case.",
        ),
    ] = None,
    holds: Annotated[
        bool | None,
        Query(
            description="Only facts that held when they were last asked (`true`), or did not "
            "(`false`); the answer after a fact's own edit counts until a later one, or a check, "
            "asks it again."
        ),
    ] = None,
    limit: Limit = 50,
    after: Annotated[
        str | None, Query(pattern=rf"^v{NUMBER}\.v{NUMBER}\.{NUMBER}$", description=AFTER)
    ] = None,
) -> FactPage:
    """With a `subject`: all its facts in the history of a version.  `live` ones govern what the
    version says, `superseded` ones were edited again by a later batch.  Without: all live facts.
    `checked_in` is the version of the history that was asked a fact last: by the edit that made
    it, or by the check `check_id`.

    The pages of one list belong to one version, also where head moves in between.
    """
    tip, place = _cursor(after) if after else (version, None)
    tip = state.store.names.resolve(tip)
    entries = listing.facts(
        state.store, tip, subject=subject, containing=contains or None, holds=holds, after=place
    )
    data, has_more = take(entries, limit)
    following = f"{tip}.{data[-1].version}.{data[-1].index}" if has_more else None
    response.headers["X-Model-Version"] = tip
    return FactPage(data=data, has_more=has_more, next=following, version=tip)


def _cursor(after: str) -> tuple[str, Place]:
    """The version that a list is of, and the fact that it goes on after."""
    tip, version, index = after.split(".")
    return tip, Place(version, int(index))


DESCRIPTION = """\
Queues a check and answers 202 with its job; `Location` is the check's address.

The version (default: head) is asked the facts that it is meant to say now, all of them or a sample
drawn by `seed`, of one subject or one batch if these are named.  Nothing is edited.  A fact holds
where the version writes its answer, greedily, all of it and as whole words, in each way of asking
that it was edited for, as for the earlier facts that an edit asks.

From its end on `GET /facts` shows of these facts what the check has found; those that do not hold
can be sent to `POST /edits` as `GET /checks/{id}/missing` has them.
"""


@router.post(
    "/checks",
    status_code=202,
    response_model=JobOut,
    description=DESCRIPTION,
    responses={
        200: {"model": JobOut, "description": "The job has ended within the time of `Prefer`."},
        **documented(400, 413, 415, 422, 429, 503, 507),
    },
    openapi_extra=json_request_body(CheckRequest, optional=True),
)
@needs(CHECKS.scope)
async def submit_check(
    request: Request,
    state: State,
    idempotency_key: KeyHeader = None,
    prefer: PreferHeader = "",
) -> Response:
    """Queue a check of live facts."""
    check_key(idempotency_key)
    body = await read_model(request, CheckRequest, optional=True)
    job, fresh = await run_in_threadpool(_journaled, state, body, idempotency_key)
    return await submit_and_wait(state, request, job, fresh, prefer, CHECKS.location(job))


@router.get("/checks", responses=documented(422))
@needs(Scope.READ)
async def list_checks(
    state: State,
    limit: Limit = 50,
    after: Annotated[str | None, Query(pattern=CHECKS.id_pattern, description=AFTER)] = None,
) -> Page[CheckSummary]:
    """Checks, newest first."""
    return await CHECKS.page(state, limit, after, _summary)


@router.get("/checks/{id}", responses=documented(404))
@needs(Scope.READ)
async def show_check(id: str, state: State) -> Check:
    """The status of a check and, once it has ended, what it has found."""
    job = await CHECKS.find(state, id)
    fields = {"version", "facts", "seed", "subject", "edit_id"}
    return Check(**CHECKS.shown(job), **CHECKS.payload(job).model_dump(include=fields))


@router.get(
    "/checks/{id}/missing",
    response_class=FileResponse,
    responses={
        200: {
            "description": "One fact per line, as `POST /edits` takes them.",
            "content": {"application/x-ndjson": {"schema": {"type": "string"}}},
        },
        **documented(404, 409),
    },
)
@needs(Scope.READ)
async def missing_facts(id: str, state: State) -> FileResponse:
    """All facts that a check has found not to hold, in the form in which they are edited again."""
    job, _ = await CHECKS.ended(state, id)
    path = await CHECKS.report(state, job, MISSING_FILE)
    return FileResponse(path, media_type="application/x-ndjson", filename=f"{id}.jsonl")


def _journaled(state: ApiState, body: CheckRequest, key: str | None) -> tuple[Job, bool]:
    """Journal a check; False if ``key`` already belongs to it.

    Raises:
        ApiProblem: 422, 429 if too many jobs wait, 503, 507 if the store is full.
    """
    state.models.get()

    def payload(job_id: str) -> CheckPayload:
        try:
            version = state.store.names.resolve(body.version)
        except UnknownVersion as error:
            raise invalid([field_error("/version", "unknown_version", str(error))]) from None
        if errors := _without_facts(state, body, version):
            raise invalid(errors)
        return CheckPayload(
            check_id=CHECKS.id_of(job_id), **body.model_dump(exclude={"version"}), version=version
        )

    return CHECKS.journaled(state, payload, key, {"check": body.model_dump(mode="json")})


def _without_facts(state: ApiState, body: CheckRequest, version: str) -> list[dict[str, str]]:
    """The subject and the batch that a request names and its version has nothing of: a check of no
    facts would say that all of them hold.
    """
    found, has = [], f"GET /facts?version={version} shows what it has"
    if body.subject is not None:
        about = listing.facts(state.store, version, subject=body.subject)
        if next(about, None) is None:
            message = f"{version} has no fact about {body.subject[:LONGEST_NAME]!r}: {has}"
            found.append(field_error("/subject", "not_applied", message))
    edit_id = body.edit_id
    if edit_id is not None and listing.applied_in(state.store, edit_id, version) is None:
        message = f"{version} has no batch {edit_id[:LONGEST_NAME]!r}: {has}"
        found.append(field_error("/edit_id", "not_applied", message))
    return found


def _summary(job: Job) -> CheckSummary:
    payload, result = CHECKS.payload(job), CHECKS.result(job)
    return CheckSummary(
        id=payload.check_id,
        job_id=job.id,
        status=job.status,
        created_at=job.created_at,
        version=payload.version,
        asked=result.asked if result else None,
        missing=result.missing if result else None,
    )
