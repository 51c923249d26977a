"""``/evaluations``: measure versions, or try an editor, on a suite; results case by case."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from jeep_core.editors import preset_hparams
from jeep_core.errors import InvalidHParams
from service.api.http.access import needs
from service.api.http.bodies import json_request_body, read_model
from service.api.http.job_events import current
from service.api.http.paging import AFTER, Limit, Page, take
from service.api.http.problems import (
    ApiProblem,
    documented,
    field_error,
    from_fields,
    invalid,
    not_found,
)
from service.api.model import PublishedModel
from service.api.resources.suites import suite_info
from service.api.state import ApiState, State
from service.api.submission.jobs import KeyHeader, check_key, journaled, submit
from service.contracts.jobs import Job, JobKind, JobStatus
from service.contracts.schemas import JobOut
from service.contracts.schemas.access import Scope
from service.contracts.schemas.evaluation import (
    COMPARISONS_FILE,
    Evaluation,
    EvaluationComparison,
    EvaluationPayload,
    EvaluationRequest,
    EvaluationResult,
    Target,
    cases_file,
)
from service.store import CorruptFile, Store, UnknownJob, UnknownVersion
from service.store.base.moments import check_moments

router = APIRouter(tags=["evaluation"])
PREFIX = "eval_"
CHUNK = 1 << 16

DESCRIPTION = """\
Queues an evaluation and answers 202 with its job; `Location` is the evaluation's address.

`{suite, versions}` measures versions as they stand (default: head).  `{suite, editor, n_edits}`
is a trial: for every n, the first n of the drawn cases are edited together into the base model,
measured, and thrown away; no version is written.  `n_edits` may contain 0, the unedited model.

The same `seed` draws the same cases, texts and intervals.
"""


class EvaluationSummary(BaseModel):
    """An evaluation in ``GET /evaluations``: without its result."""

    id: str
    job_id: str
    status: JobStatus
    suite: str
    targets: list[Target]
    editor: str | None


@router.post(
    "/evaluations",
    status_code=202,
    description=DESCRIPTION,
    responses=documented(400, 404, 409, 413, 415, 422, 429, 503, 507),
    openapi_extra=json_request_body("EvaluationRequest"),
)
@needs(Scope.EDIT)
async def submit_evaluation(
    request: Request, response: Response, state: State, idempotency_key: KeyHeader = None
) -> JobOut:
    """Queue an evaluation."""
    check_key(idempotency_key)
    body = await read_model(request, EvaluationRequest)
    job, fresh = await run_in_threadpool(_journaled, state, body, idempotency_key)
    location = f"/evaluations/{job.payload['evaluation_id']}"
    return await submit(state, request, response, job, fresh, location)


@router.get("/evaluations", responses=documented(422))
@needs(Scope.READ)
async def list_evaluations(
    state: State,
    limit: Limit = 50,
    after: Annotated[str | None, Query(pattern=r"^eval_[0-9A-Z]{26}$", description=AFTER)] = None,
) -> Page[EvaluationSummary]:
    """Evaluations, newest first."""
    cursor = None if after is None else _job_id(after)
    jobs = state.store.journal.all(kind=JobKind.EVALUATION, after=cursor)
    taken, has_more = await run_in_threadpool(take, jobs, limit)
    data = [_summary(await current(state, job)) for job in taken]
    return Page(data=data, has_more=has_more, next=data[-1].id if has_more else None)


@router.get("/evaluations/{id}", responses=documented(404))
@needs(Scope.READ)
async def show_evaluation(id: str, state: State) -> Evaluation:
    """The status of an evaluation and, once it has ended, its figures with intervals."""
    job = await _job(state, id)
    payload = EvaluationPayload.model_validate(job.payload)
    return Evaluation(
        id=id,
        job_id=job.id,
        status=job.status,
        **payload.model_dump(
            include={"suite", "targets", "editor", "preset", "hparams", "limit", "seed"}
        ),
        created_at=job.created_at,
        progress=job.progress,
        result=_result(job),
        error=job.error,
    )


@router.get(
    "/evaluations/{id}/cases",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "One case of one target per line.",
            "content": {"application/x-ndjson": {"schema": {"type": "string"}}},
        },
        **documented(404, 409),
    },
)
@needs(Scope.READ)
async def evaluation_cases(
    id: str,
    state: State,
    target: Annotated[str | None, Query(description="Label; default: all.")] = None,
) -> StreamingResponse:
    """The case records of an evaluation that has ended: scores and every prompt."""
    job, payload = await _ended(state, id)
    chosen = range(len(payload.targets)) if target is None else [_number(payload, target)]
    names = [cases_file(number) for number in chosen]
    paths = [await run_in_threadpool(state.store.reports.path, job.id, name) for name in names]
    headers = {"Content-Disposition": f'attachment; filename="{id}.jsonl"'}
    return StreamingResponse(_content(paths), media_type="application/x-ndjson", headers=headers)


@router.get("/evaluations/{id}/compare", responses=documented(404, 409, 422))
@needs(Scope.READ)
async def compare_targets(
    id: str,
    state: State,
    a: Annotated[str, Query(description="Label of the one compared with.")],
    b: Annotated[str, Query(description="Label of the one that got better or broke cases.")],
) -> EvaluationComparison:
    """Two targets case by case: paired differences, what got better, what broke."""
    job, payload = await _ended(state, id)
    numbers = [_number(payload, a), _number(payload, b)]
    if numbers[0] == numbers[1]:
        raise ApiProblem("same_target", f"{a!r} cannot be compared with itself")
    path = await run_in_threadpool(state.store.reports.path, job.id, COMPARISONS_FILE)
    return await run_in_threadpool(_comparison, path, a, b)


def _journaled(state: ApiState, body: EvaluationRequest, key: str | None) -> tuple[Job, bool]:
    """Journal a job; False if ``key`` already belongs to it.

    Raises:
        ApiProblem: 404 for an unknown suite, 409 without a text for moments, 422, 429 if too
            many jobs wait, 503.
        StoreFull: there is no room for another job.
    """
    model = state.models.get()

    def payload(job_id: str) -> EvaluationPayload:
        suite = suite_info(state.store.suites, body.suite)
        made = EvaluationPayload(
            evaluation_id=PREFIX + job_id.removeprefix("job_"),
            suite=suite.name,
            suite_sha256=suite.sha256,
            targets=[] if body.editor else _versions(state, body),
            limit=body.limit,
            seed=body.seed,
            fluency_texts=body.fluency_texts,
        )
        trial = _trial(state.store, model, body, suite.cases) if body.editor is not None else {}
        return made.model_copy(update=trial)

    said = {"evaluation": body.model_dump(mode="json")}
    return journaled(state, JobKind.EVALUATION, payload, key, said)


def _versions(state: ApiState, body: EvaluationRequest) -> list[Target]:
    """The versions of a request, each once, under the names that it gave them."""
    found: list[Target] = []
    errors = []
    for i, label in enumerate(body.versions or ["head"]):
        try:
            version = state.store.names.resolve(label)
        except UnknownVersion as error:
            errors.append(field_error(f"/versions/{i}", "unknown_version", str(error)))
            continue
        if label in {target.label for target in found}:
            errors.append(field_error(f"/versions/{i}", "repeated", f"{label!r} is given twice"))
        found.append(Target(label=label, version=version))
    if errors:
        raise invalid(errors)
    return found


def _trial(
    store: Store, model: PublishedModel, body: EvaluationRequest, cases: int
) -> dict[str, Any]:
    """Return the payload fields of a trial.

    Raises:
        ApiProblem: 422.
        NoMoments: answered with 409.
    """
    editor, sizes = str(body.editor), list(dict.fromkeys(body.n_edits or []))
    names = model.info.presets.get(editor, [])
    known = {name: model.info.preset_values[f"{editor}/{name}"] for name in names}
    try:
        preset, hparams = preset_hparams(
            editor, known, body.preset, body.hparams, model.info.n_layers
        )
    except InvalidHParams as error:
        raise invalid(from_fields(error.problems), "invalid_hparams") from None
    if max(sizes) > cases:
        message = f"the suite has {cases} cases, {max(sizes)} edits are asked for"
        raise invalid([field_error("/n_edits", "too_many", message)])
    check_moments(store.base, model.info, editor, hparams.model_dump(mode="json"))
    targets = [Target(label=f"{editor}-{n}" if n else "unedited", n_edits=n) for n in sizes]
    return {
        "targets": targets,
        "editor": editor,
        "preset": preset,
        "hparams": hparams.model_dump(mode="json"),
    }


async def _job(state: ApiState, evaluation_id: str) -> Job:
    try:
        stored = await run_in_threadpool(state.store.journal.read, _job_id(evaluation_id))
    except UnknownJob:
        raise not_found("evaluation", evaluation_id) from None
    if stored.kind is not JobKind.EVALUATION or stored.payload["evaluation_id"] != evaluation_id:
        raise not_found("evaluation", evaluation_id)
    return await current(state, stored)


async def _ended(state: ApiState, evaluation_id: str) -> tuple[Job, EvaluationPayload]:
    """An evaluation that has its result.

    Raises:
        ApiProblem: 404; 409 while it has none.
    """
    job = await _job(state, evaluation_id)
    if _result(job) is None:
        detail = f"the evaluation is {job.status.value}: it has no result (see /jobs/{job.id})"
        raise ApiProblem("no_result", detail)
    return job, EvaluationPayload.model_validate(job.payload)


def _number(payload: EvaluationPayload, label: str) -> int:
    for number, target in enumerate(payload.targets):
        if target.label == label:
            return number
    raise not_found("target", label)


def _comparison(path: Path, a: str, b: str) -> EvaluationComparison:
    with path.open("rb") as lines:
        for line in lines:
            found = EvaluationComparison.model_validate_json(line)
            if (found.a, found.b) == (a, b):
                return found
            if (found.a, found.b) == (b, a):
                return found.reversed()
    raise CorruptFile(f"{path} lacks the comparison of {a} and {b}")


def _content(paths: list[Path]) -> Iterator[bytes]:
    for path in paths:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                yield chunk


def _job_id(evaluation_id: str) -> str:
    return "job_" + evaluation_id.removeprefix(PREFIX)


def _result(job: Job) -> EvaluationResult | None:
    if job.status is not JobStatus.SUCCEEDED or job.result is None:
        return None
    return EvaluationResult.model_validate(job.result)


def _summary(job: Job) -> EvaluationSummary:
    payload = EvaluationPayload.model_validate(job.payload)
    return EvaluationSummary(
        id=payload.evaluation_id,
        job_id=job.id,
        status=job.status,
        suite=payload.suite,
        targets=payload.targets,
        editor=payload.editor,
    )
