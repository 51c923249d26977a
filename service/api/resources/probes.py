"""``/probes``: where a version stores its answers, layer by layer, and which layers to edit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse

from jeep_core.probe.defaults.rule import RULE, NoProposal, proposed
from jeep_core.spec.chats import parse_chat_facts
from jeep_core.spec.positions import check_facts
from service.api.http.access import needs
from service.api.http.bodies import json_request_body, parse_json, read_model
from service.api.http.limits import fact_errors
from service.api.http.logs import log_texts
from service.api.http.paging import AFTER, Limit, Page
from service.api.http.problems import documented, field_error, invalid, not_found
from service.api.jobs.resource import JobResource
from service.api.jobs.submitting import KeyHeader, check_key
from service.api.model import PublishedModel
from service.api.resources.suites import suite_info
from service.api.state import ApiState, State
from service.api.submission.validation import check_count
from service.contracts.jobs import Job, JobKind
from service.contracts.schemas import FactIn, FactRecord, JobOut
from service.contracts.schemas.access import Scope
from service.contracts.schemas.jobs import ProbeSummary as ProbeSummary
from service.contracts.schemas.probe import (
    RECORD_FILE,
    Probe,
    ProbePayload,
    ProbeRequest,
    ProbeResult,
    ProposedToday,
)
from service.store import UnknownVersion

router = APIRouter(tags=["probes"])
PROBES = JobResource[ProbePayload, ProbeResult](JobKind.PROBE)
TYPES = {".json": "application/json", ".png": "image/png", ".svg": "image/svg+xml"}
CONTENT = {
    kind: {"schema": {"type": "object" if kind == "application/json" else "string"}}
    for kind in TYPES.values()
}

ASKED = {"suite", "version", "limit", "seed", "quick"}
"""Fields of the request that are shown with the probe."""

DESCRIPTION = """\
Queues a contrast probe and answers 202 with its job; `Location` is the probe's address.

The first tokens of the original and of the target answer are read in every layer, at the
subject's last token and at the prediction position; states are exchanged between prompts; and
from both a low and a high region are proposed.  Without a suite or facts a bundled model is asked
the validation suite, another one general knowledge that ships, as far as it knows it.  A probe of
`base` that proposes layers is what edits without hyper-parameters go by from then on, where the
model has no preset, or `preset` or `hparams` is `"auto"`.

With `quick` only that is read and exchanged which a proposal rests on, of as many prompts as settle
it, at most 64: in a small part of the time.
"""


@router.post(
    "/probes",
    status_code=202,
    description=DESCRIPTION,
    responses=documented(400, 404, 413, 415, 422, 429, 503, 507),
    openapi_extra=json_request_body(ProbeRequest),
)
@needs(PROBES.scope)
async def submit_probe(
    request: Request, response: Response, state: State, idempotency_key: KeyHeader = None
) -> JobOut:
    """Queue a probe."""
    check_key(idempotency_key)
    body = await read_model(request, ProbeRequest)
    log_texts(request, state.settings, "facts", map(str, body.facts or []))
    job, fresh = await run_in_threadpool(_journaled, state, body, idempotency_key)
    return await PROBES.submit(state, request, response, job, fresh)


@router.get("/probes", responses=documented(422))
@needs(Scope.READ)
async def list_probes(
    state: State,
    limit: Limit = 50,
    after: Annotated[str | None, Query(pattern=PROBES.id_pattern, description=AFTER)] = None,
) -> Page[ProbeSummary]:
    """Probes, newest first."""
    return await PROBES.page(state, limit, after, _summary)


@router.get("/probes/{id}", responses=documented(404))
@needs(Scope.READ)
async def show_probe(id: str, state: State) -> Probe:
    """The status of a probe and, once it has ended, all its figures."""
    job = await PROBES.find(state, id)
    record, today = None, None
    if PROBES.result(job) is not None:
        path = await PROBES.report(state, job, RECORD_FILE)
        record = await run_in_threadpool(_record, path)
        today = await run_in_threadpool(_today, record, state)
    asked = PROBES.payload(job).model_dump(include=ASKED)
    return Probe(**PROBES.shown(job), **asked, record=record, today=today)


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
    job = await PROBES.find(state, id)
    result = PROBES.result(job)
    if result is None or name not in result.files:
        raise not_found("file", name)
    path = await PROBES.report(state, job, name)
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
        try:
            version = state.store.names.resolve(body.version)
        except UnknownVersion as error:
            raise invalid([field_error("/version", "unknown_version", str(error))]) from None
        return ProbePayload(
            probe_id=PROBES.id_of(job_id),
            suite=body.suite,
            facts=facts,
            version=version,
            limit=body.limit,
            seed=body.seed,
            quick=body.quick,
            table=body.table,
        )

    said = {"probe": body.model_dump(mode="json")}
    return PROBES.journaled(state, payload, key, said)


def _checked(facts: Sequence[FactIn], model: PublishedModel) -> list[FactRecord]:
    """The facts as they are stored.

    Raises:
        InvalidFacts: answered with 422 and a pointer per wrong field.
    """
    sent = [fact.model_dump() for fact in facts]
    parsed = parse_chat_facts(sent, model.info.relations, model.chat)
    check_facts(model.tokenizer, parsed, model.info.max_positions)
    return [FactRecord.of(fact) for fact in parsed]


def _record(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = parse_json(path.read_bytes(), "")
    return found


def _today(record: Mapping[str, Any], state: ApiState) -> ProposedToday | None:
    """The proposal by the figures of a record now, if it was made under another rule."""
    if record.get("rule") == RULE:
        return None
    info = None if "measured" in record else state.store.base.info()
    try:
        hparams = proposed(record, None if info is None else info.mlp_size)
    except NoProposal as reason:
        return ProposedToday(rule=RULE, why_no_proposal=str(reason))
    return ProposedToday(rule=RULE, hparams=hparams)


def _summary(job: Job) -> ProbeSummary:
    payload, result = PROBES.payload(job), PROBES.result(job)
    return ProbeSummary(
        id=payload.probe_id,
        job_id=job.id,
        status=job.status,
        created_at=job.created_at,
        suite=payload.suite,
        version=payload.version,
        low=result.low if result else None,
        high=result.high if result else None,
    )
