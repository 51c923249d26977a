"""``/probes``: where a version stores its answers, layer by layer, and which layers to edit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse
from pydantic import BaseModel

from jeep_core import atlas
from jeep_core.errors import InvalidFacts
from jeep_core.spec.facts import parse_facts
from jeep_core.spec.positions import check_facts
from service.api.http.access import needs
from service.api.http.bodies import json_request_body, parse_json, read_model
from service.api.http.job_events import current
from service.api.http.limits import fact_errors
from service.api.http.logs import log_texts
from service.api.http.paging import AFTER, Limit, Page, take
from service.api.http.problems import documented, field_error, from_fields, invalid, not_found
from service.api.model import PublishedModel
from service.api.resources.suites import suite_info
from service.api.state import ApiState, State
from service.api.submission.jobs import KeyHeader, check_key, journaled, submit
from service.api.submission.validation import check_count
from service.contracts.jobs import Job, JobKind, JobStatus
from service.contracts.schemas import FactIn, FactRecord, JobOut
from service.contracts.schemas.access import Scope
from service.contracts.schemas.probe import (
    RECORD_FILE,
    Probe,
    ProbePayload,
    ProbeRequest,
    ProbeResult,
)
from service.store import Store, UnknownJob, UnknownVersion

router = APIRouter(tags=["probes"])
PREFIX = "probe_"
TYPES = {".json": "application/json", ".png": "image/png", ".svg": "image/svg+xml"}
CONTENT = {
    kind: {"schema": {"type": "object" if kind == "application/json" else "string"}}
    for kind in TYPES.values()
}

DESCRIPTION = """\
Queues a contrast probe and answers 202 with its job; `Location` is the probe's address.

The first tokens of the original and of the target answer are read in every layer, at the
subject's last token and at the prediction position; states are exchanged between prompts; and
from both a low and a high region are proposed.  A probe of `base` that proposes layers is what
`hparams: "auto"` of `POST /edits` goes by from then on.
"""


class ProbeSummary(BaseModel):
    """A probe in ``GET /probes``: without its figures."""

    id: str
    job_id: str
    status: JobStatus
    suite: str | None
    version: str
    low: list[int] | None = None
    high: list[int] | None = None


@router.post(
    "/probes",
    status_code=202,
    description=DESCRIPTION,
    responses=documented(400, 404, 413, 415, 422, 429, 503, 507),
    openapi_extra=json_request_body("ProbeRequest"),
)
@needs(Scope.EDIT)
async def submit_probe(
    request: Request, response: Response, state: State, idempotency_key: KeyHeader = None
) -> JobOut:
    """Queue a probe."""
    check_key(idempotency_key)
    body = await read_model(request, ProbeRequest)
    log_texts(request, state.settings, "facts", map(str, body.facts or []))
    job, fresh = await run_in_threadpool(_journaled, state, body, idempotency_key)
    location = f"/probes/{job.payload['probe_id']}"
    return await submit(state, request, response, job, fresh, location)


@router.get("/probes", responses=documented(422))
@needs(Scope.READ)
async def list_probes(
    state: State,
    limit: Limit = 50,
    after: Annotated[str | None, Query(pattern=r"^probe_[0-9A-Z]{26}$", description=AFTER)] = None,
) -> Page[ProbeSummary]:
    """Probes, newest first."""
    cursor = None if after is None else _job_id(after)
    jobs = state.store.journal.all(kind=JobKind.PROBE, after=cursor)
    taken, has_more = await run_in_threadpool(take, jobs, limit)
    data = [_summary(await current(state, job)) for job in taken]
    return Page(data=data, has_more=has_more, next=data[-1].id if has_more else None)


@router.get("/probes/{id}", responses=documented(404))
@needs(Scope.READ)
async def show_probe(id: str, state: State) -> Probe:
    """The status of a probe and, once it has ended, all its figures."""
    job = await _job(state, id)
    payload = ProbePayload.model_validate(job.payload)
    result = _result(job)
    record = None
    if result is not None:
        record = await run_in_threadpool(_record, state.store, job.id)
    return Probe(
        id=id,
        job_id=job.id,
        status=job.status,
        **payload.model_dump(include={"suite", "version", "limit", "seed"}),
        created_at=job.created_at,
        progress=job.progress,
        result=result,
        record=record,
        error=job.error,
    )


@router.get(
    "/probes/{id}/files/{name}",
    response_class=FileResponse,
    responses={
        200: {
            "description": "The file.",
            "content": CONTENT,
        },
        **documented(404),
    },
)
@needs(Scope.READ)
async def probe_file(id: str, name: str, state: State) -> FileResponse:
    """A plot, as PNG or SVG, or the record: one of the result's `files`."""
    job = await _job(state, id)
    result = _result(job)
    if result is None or name not in result.files:
        raise not_found("file", name)
    path = await run_in_threadpool(state.store.reports.path, job.id, name)
    return FileResponse(path, media_type=TYPES[path.suffix])


def _journaled(state: ApiState, body: ProbeRequest, key: str | None) -> tuple[Job, bool]:
    """Journal a job; False if ``key`` already belongs to it.

    Raises:
        ApiProblem: 404 for an unknown suite, 413, 422, 429 if too many jobs wait, 503, 507 if the
            store is full.
    """
    model = state.models.get()

    def payload(job_id: str) -> ProbePayload:
        facts = None
        if body.facts is not None:
            check_count(len(body.facts), state.settings.max_facts)
            errors = fact_errors(body.facts, state.settings)
            if errors:
                raise invalid(errors, "invalid_facts")
            facts = _checked(body.facts, model)
        elif body.suite is not None:
            suite_info(state.store.suites, body.suite)
        elif model.info.model not in atlas.MODELS:
            message = (
                "give a suite or facts: this model has no bundled suite (jeep suites add NAME FILE)"
            )
            raise invalid([field_error("/suite", "missing", message)])
        try:
            version = state.store.names.resolve(body.version)
        except UnknownVersion as error:
            raise invalid([field_error("/version", "unknown_version", str(error))]) from None
        return ProbePayload(
            probe_id=PREFIX + job_id.removeprefix("job_"),
            suite=body.suite,
            facts=facts,
            version=version,
            limit=body.limit,
            seed=body.seed,
            table=body.table,
        )

    said = {"probe": body.model_dump(mode="json")}
    return journaled(state, JobKind.PROBE, payload, key, said)


def _checked(facts: Sequence[FactIn], model: PublishedModel) -> list[FactRecord]:
    """The facts as they are stored.

    Raises:
        ApiProblem: 422 with a pointer per wrong field.
    """
    try:
        parsed = parse_facts([fact.model_dump() for fact in facts], model.info.relations)
        check_facts(model.tokenizer, parsed, model.info.max_positions)
    except InvalidFacts as error:
        raise invalid(from_fields(error.problems), "invalid_facts") from None
    return [FactRecord.model_validate(asdict(fact)) for fact in parsed]


async def _job(state: ApiState, probe_id: str) -> Job:
    try:
        stored = await run_in_threadpool(state.store.journal.read, _job_id(probe_id))
    except UnknownJob:
        raise not_found("probe", probe_id) from None
    if stored.kind is not JobKind.PROBE or stored.payload["probe_id"] != probe_id:
        raise not_found("probe", probe_id)
    return await current(state, stored)


def _job_id(probe_id: str) -> str:
    return "job_" + probe_id.removeprefix(PREFIX)


def _record(store: Store, job_id: str) -> dict[str, Any]:
    found: dict[str, Any] = parse_json(store.reports.path(job_id, RECORD_FILE).read_bytes(), "")
    return found


def _result(job: Job) -> ProbeResult | None:
    if job.status is not JobStatus.SUCCEEDED or job.result is None:
        return None
    return ProbeResult.model_validate(job.result)


def _summary(job: Job) -> ProbeSummary:
    payload, result = ProbePayload.model_validate(job.payload), _result(job)
    return ProbeSummary(
        id=payload.probe_id,
        job_id=job.id,
        status=job.status,
        suite=payload.suite,
        version=payload.version,
        low=result.low if result else None,
        high=result.high if result else None,
    )
