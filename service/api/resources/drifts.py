"""``/drifts``: how far a version has moved away from another one, and because of which facts."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from service.api.http.access import needs
from service.api.http.bodies import json_request_body, read_model
from service.api.http.logs import log_texts
from service.api.http.paging import AFTER, Limit, Page
from service.api.http.problems import OVER_LIMIT, documented, field_error, invalid
from service.api.jobs.resource import JobResource
from service.api.jobs.submitting import KeyHeader, check_key
from service.api.state import ApiState, State
from service.contracts.jobs import Job, JobKind
from service.contracts.schemas import JobOut
from service.contracts.schemas.access import Scope
from service.contracts.schemas.effects.drift import (
    Drift,
    DriftPayload,
    DriftRequest,
    DriftResult,
)
from service.contracts.schemas.jobs import DriftSummary as DriftSummary
from service.store import UnknownVersion

router = APIRouter(tags=["evaluation"])
DRIFTS = JobResource[DriftPayload, DriftResult](JobKind.DRIFT)

DESCRIPTION = """\
Queues a comparison of two versions on texts and prompts that no edit is about, and answers 202 with
its job; `Location` is the address of the result.

At every token the distributions of the next one are compared: KL in nats, and whether another token
is the most probable one; texts also have perplexities, by kind.  The places that moved most are
listed with the tokens before and after, and the first of them are explained by the facts that moved
them, where the editors' updates have a column for each fact.
"""


@router.post(
    "/drifts",
    status_code=202,
    description=DESCRIPTION,
    responses=documented(400, 413, 415, 422, 429, 503, 507),
    openapi_extra=json_request_body(DriftRequest),
)
@needs(DRIFTS.scope)
async def submit_drift(
    request: Request, response: Response, state: State, idempotency_key: KeyHeader = None
) -> JobOut:
    """Queue a comparison of two versions."""
    check_key(idempotency_key)
    body = await read_model(request, DriftRequest)
    log_texts(request, state.settings, "prompts", body.prompts or [])
    job, fresh = await run_in_threadpool(_journaled, state, body, idempotency_key)
    return await DRIFTS.submit(state, request, response, job, fresh)


@router.get("/drifts", responses=documented(422))
@needs(Scope.READ)
async def list_drifts(
    state: State,
    limit: Limit = 50,
    after: Annotated[str | None, Query(pattern=DRIFTS.id_pattern, description=AFTER)] = None,
) -> Page[DriftSummary]:
    """Comparisons, newest first."""
    return await DRIFTS.page(state, limit, after, _summary)


@router.get("/drifts/{id}", responses=documented(404))
@needs(Scope.READ)
async def show_drift(id: str, state: State) -> Drift:
    """The status of a comparison and, once it has ended, its figures and the worst places."""
    job = await DRIFTS.find(state, id)
    asked = DRIFTS.payload(job).model_dump(include={"version", "against"})
    return Drift(**DRIFTS.shown(job), **asked)


def _journaled(state: ApiState, body: DriftRequest, key: str | None) -> tuple[Job, bool]:
    """Journal a job; False if ``key`` already belongs to it.

    Raises:
        ApiProblem: 413, 422, 429 if too many jobs wait, 503, 507 if the store is full.
    """
    state.models.get()

    def payload(job_id: str) -> DriftPayload:
        _check_texts(body, state.settings.max_text_chars)
        return DriftPayload(
            drift_id=DRIFTS.id_of(job_id),
            version=_version(state, body, "version"),
            against=_version(state, body, "against"),
            texts=body.texts,
            prompts=body.prompts,
            max_tokens=body.max_tokens,
            worst=body.worst,
            explained=body.explained,
            seed=body.seed,
        )

    return DRIFTS.journaled(state, payload, key, {"drift": body.model_dump(mode="json")})


def _version(state: ApiState, body: DriftRequest, name: str) -> str:
    try:
        return state.store.names.resolve(getattr(body, name))
    except UnknownVersion as error:
        raise invalid([field_error(f"/{name}", "unknown_version", str(error))]) from None


def _check_texts(body: DriftRequest, limit: int) -> None:
    """Refuse texts that are too long, and a request with nothing to compare on.

    Raises:
        ApiProblem: 413, 422.
    """
    if body.texts == [] and body.prompts == []:
        message = "there is no text and no prompt: give some, or leave a field out for the default"
        raise invalid([field_error("/texts", "empty", message)])
    texts = {f"/texts/{i}/text": one.text for i, one in enumerate(body.texts or [])}
    texts |= {f"/prompts/{i}": one for i, one in enumerate(body.prompts or [])}
    message = f"more than {limit} characters (JEEP_MAX_TEXT_CHARS)"
    long = [at for at, text in texts.items() if len(text) > limit]
    errors = [field_error(at, OVER_LIMIT, message) for at in long]
    errors += [
        field_error(at, "empty", "the text is empty") for at, text in texts.items() if not text
    ]
    if errors:
        raise invalid(errors)


def _summary(job: Job) -> DriftSummary:
    payload = DRIFTS.payload(job)
    return DriftSummary(
        id=payload.drift_id,
        job_id=job.id,
        status=job.status,
        version=payload.version,
        against=payload.against,
    )
