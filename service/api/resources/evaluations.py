"""``/evaluations``: measure versions, or try an editor, on a suite; results case by case."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from jeep_core.evaluation.harness.catalogue import TaskSet, find, is_task
from jeep_core.evaluation.harness.installed import NoHarness
from jeep_core.text.chat import NoTemplate, has_template
from jeep_core.text.counting import counted
from service.api.http.access import check_scope, needs
from service.api.http.bodies import json_request_body, read_json
from service.api.http.paging import AFTER, Limit, Page
from service.api.http.problems import (
    ApiProblem,
    documented,
    field_error,
    invalid,
    not_found,
)
from service.api.jobs.resource import JobResource
from service.api.jobs.submitting import KeyHeader, check_key
from service.api.model import PublishedModel
from service.api.resources.suites import suite_info
from service.api.state import ApiState, State
from service.api.submission.judges import free_options
from service.api.submission.misplaced import validated
from service.api.submission.networks import check_network
from service.api.submission.validation import hparams_of
from service.contracts.jobs import Job, JobKind
from service.contracts.schemas import AUTO, JobOut
from service.contracts.schemas.access import Scope
from service.contracts.schemas.evaluation import (
    COMPARISONS_FILE,
    Evaluation,
    EvaluationComparison,
    EvaluationPayload,
    EvaluationPoint,
    EvaluationRequest,
    EvaluationResult,
    HeldOutText,
    SuiteInfo,
    Target,
    cases_file,
)
from service.contracts.schemas.jobs import EvaluationSummary as EvaluationSummary
from service.store import CorruptFile, Store, UnknownVersion
from service.store.base.moments import check_moments

router = APIRouter(tags=["evaluation"])
EVALUATIONS = JobResource[EvaluationPayload, EvaluationResult](JobKind.EVALUATION)
CHUNK = 1 << 16
MAIN_METRIC = "score"

DESCRIPTION = """\
Queues an evaluation and answers 202 with its job; `Location` is the evaluation's address.

`{suite, versions}` measures versions as they are (default: head).  `{suite, editor, n_edits}`
is a trial: for every n, the first n of the drawn cases are edited together into the base model,
measured, and thrown away; no version is written.  `n_edits` may contain 0, the unedited model.
Hyper-parameters of a trial are chosen as those of an edit; the result has them, and their `source`.

`{suite: "lm-eval:NAME"}` runs a task of lm-eval (or a group, or a file of the folder
`JEEP_LM_EVAL_TASKS`), by default on base and head: abilities that no edit should touch.

With `free` the cases are also judged by what a version writes freely, and by a judge model if it
names one, which needs a key of the scope `admin`.  The result says of every metric what was asked,
how it was judged, and what it can be compared with.

The same `seed` draws the same cases, texts and intervals.
"""


@router.post(
    "/evaluations",
    status_code=202,
    description=DESCRIPTION,
    responses=documented(400, 403, 404, 409, 413, 415, 422, 429, 503, 507),
    openapi_extra=json_request_body(EvaluationRequest),
)
@needs(EVALUATIONS.scope)
async def submit_evaluation(
    request: Request, response: Response, state: State, idempotency_key: KeyHeader = None
) -> JobOut:
    """Queue an evaluation."""
    check_key(idempotency_key)
    body = validated(EvaluationRequest, await read_json(request))
    if body.free is not None and body.free.judge is not None:
        check_scope(request, Scope.ADMIN, "a judge")
    job, fresh = await run_in_threadpool(_journaled, state, body, idempotency_key)
    return await EVALUATIONS.submit(state, request, response, job, fresh)


@router.get("/evaluations", responses=documented(422))
@needs(Scope.READ)
async def list_evaluations(
    state: State,
    limit: Limit = 50,
    after: Annotated[str | None, Query(pattern=EVALUATIONS.id_pattern, description=AFTER)] = None,
) -> Page[EvaluationSummary]:
    """Evaluations, newest first."""
    return await EVALUATIONS.page(state, limit, after, _summary)


@router.get("/evaluations/{id}", responses=documented(404))
@needs(Scope.READ)
async def show_evaluation(id: str, state: State) -> Evaluation:
    """The status of an evaluation and, once it has ended, its figures with intervals."""
    job = await EVALUATIONS.find(state, id)
    fields = {"suite", "targets", "editor", "preset", "hparams", "ask", "free", "limit", "seed"}
    asked = EVALUATIONS.payload(job).model_dump(include=fields)
    result = EVALUATIONS.result(job)
    if result is not None and result.hparams is not None:
        asked["hparams"] = result.hparams
    return Evaluation(**EVALUATIONS.shown(job), **asked)


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
    job, _ = await EVALUATIONS.ended(state, id)
    payload = EVALUATIONS.payload(job)
    chosen = range(len(payload.targets)) if target is None else [_number(payload, target)]
    names = [cases_file(number) for number in chosen]
    paths = [await EVALUATIONS.report(state, job, name) for name in names]
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
    """Two targets case by case: paired differences, what got better, what broke.

    `protocols` says of every difference what was asked, how it was judged, and what it can be
    compared with; `notes` where the two were not measured alike.
    """
    job, result = await EVALUATIONS.ended(state, id)
    payload = EVALUATIONS.payload(job)
    numbers = [_number(payload, a), _number(payload, b)]
    if numbers[0] == numbers[1]:
        raise ApiProblem("same_target", f"{a!r} cannot be compared with itself")
    path = await EVALUATIONS.report(state, job, COMPARISONS_FILE)
    found = await run_in_threadpool(_comparison, path, a, b)
    known = {n: one for n, one in result.protocols.items() if n in found.differences}
    before, after = (result.points[number] for number in numbers)
    notes = notes_on(before, after, found.cases)
    return found.model_copy(update={"protocols": known, "notes": notes})


def notes_on(a: EvaluationPoint, b: EvaluationPoint, cases: int) -> list[str]:
    """Where two targets of an evaluation were not measured alike; ``cases`` are those of both."""
    found = []
    if (a.cases, b.cases) != (cases, cases):
        found.append(
            f"{a.label} was measured on {counted(a.cases, 'case')}, {b.label} on "
            f"{counted(b.cases, 'case')}; compared are the {cases} that both were asked"
        )
    for one, other in ((a, b), (b, a)):
        if alone := [name for name in one.metrics if name not in other.metrics]:
            found.append(f"only {one.label} has figures of {', '.join(alone)}")
    if a.perplexity_text != b.perplexity_text:
        said = "; ".join(f"{one.label}: {_held_out(one.perplexity_text)}" for one in (a, b))
        found.append(f"the perplexities are of different texts, so do not compare them ({said})")
    return found


def _held_out(text: HeldOutText | None) -> str:
    if text is None:
        return "none"
    return f"{counted(text.tokens, 'token')} of {text.name} (SHA-256 {text.sha256[:12]}…)"


def _journaled(state: ApiState, body: EvaluationRequest, key: str | None) -> tuple[Job, bool]:
    """Journal a job; False if ``key`` already belongs to it.

    Raises:
        ApiProblem: 404 for an unknown suite, 409 for missing moments or networks, 422, 429 if too
            many jobs wait, 503.
        StoreFull: there is no room for another job.
    """
    model = state.models.get()
    if body.ask == "chat" and not has_template(model):
        raise invalid([field_error("/ask", NoTemplate.code, "the model has no chat template")])

    if is_task(body.suite):
        _check_tasks(model, body)

    def payload(job_id: str) -> EvaluationPayload:
        suite = _suite(state, body.suite)
        made = EvaluationPayload(
            evaluation_id=EVALUATIONS.id_of(job_id),
            suite=suite.name,
            suite_sha256=suite.sha256,
            targets=[] if body.editor else _versions(state, body),
            ask=body.ask,
            limit=body.limit,
            seed=body.seed,
            fluency_texts=body.fluency_texts,
            free=None if body.free is None else free_options(body.free, state.settings),
        )
        trial = {}
        if body.editor is not None and isinstance(suite, SuiteInfo):
            trial = _trial(state.store, model, body, suite.cases)
        return made.model_copy(update=trial)

    unsaid = {"ask"} if body.ask == "plain" else set()
    request = body.model_dump(
        mode="json", exclude=unsaid | ({"free"} if body.free is None else set())
    )
    said = {"evaluation": request}
    return EVALUATIONS.journaled(state, payload, key, said)


def _check_tasks(model: PublishedModel, body: EvaluationRequest) -> None:
    """Refuse what tasks of lm-eval cannot be asked for.

    Raises:
        ApiProblem: 422 for a trial, as tasks hold no facts to edit, and for free answers.
        NoHarness: answered with 409.
    """
    if body.editor is not None:
        message = "a trial edits the facts of a suite, and tasks have none: give versions instead"
        raise invalid([field_error("/editor", "not_editable", message)])
    if body.free is not None:
        message = "lm-eval judges the answers of its tasks itself: leave free out"
        raise invalid([field_error("/free", "not_applicable", message)])
    if model.info.lm_eval is None:
        raise NoHarness


def _suite(state: ApiState, name: str) -> SuiteInfo | TaskSet:
    """A suite, or tasks of lm-eval.

    Raises:
        ApiProblem, UnknownTask: answered with 404.
        InvalidTask: answered with 422.
    """
    if is_task(name):
        return find(name, state.settings.lm_eval_tasks)
    return suite_info(state.store.suites, name)


def _versions(state: ApiState, body: EvaluationRequest) -> list[Target]:
    """The versions of a request, each once, under the names that it gave them."""
    found: list[Target] = []
    errors = []
    usual = ["base", "head"] if is_task(body.suite) else ["head"]
    for i, label in enumerate(body.versions or usual):
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
        InvalidHParams: answered with 422.
        MissingMoments: answered with 409.
        ApiProblem: 422, or 409 without a network that fits.
    """
    editor, sizes = str(body.editor), list(dict.fromkeys(body.n_edits or []))
    preset, hparams, changes = hparams_of(editor, body.preset, body.hparams, model)
    if max(sizes) > cases:
        message = f"the suite has {counted(cases, 'case')}, {max(sizes)} edits are asked for"
        raise invalid([field_error("/n_edits", "too_many", message)])
    check_moments(store.base, model.info, editor, hparams)
    check_network(store.base, model.info, editor, hparams)
    targets = [Target(label=f"{editor}-{n}" if n else "unedited", n_edits=n) for n in sizes]
    return {
        "targets": targets,
        "editor": editor,
        "preset": preset,
        "hparams": AUTO if hparams == AUTO else hparams.model_dump(mode="json"),
        "changes": changes,
    }


def _number(payload: EvaluationPayload, label: str) -> int:
    for number, target in enumerate(payload.targets):
        if target.label == label:
            return number
    raise not_found("target", label, [target.label for target in payload.targets])


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


def _summary(job: Job) -> EvaluationSummary:
    payload, result = EVALUATIONS.payload(job), EVALUATIONS.result(job)
    metric = _main_metric(result) if result else None
    points = result.points if result and metric else []
    return EvaluationSummary(
        id=payload.evaluation_id,
        job_id=job.id,
        status=job.status,
        created_at=job.created_at,
        suite=payload.suite,
        targets=payload.targets,
        editor=payload.editor,
        metric=metric,
        figures={one.label: one.metrics[metric].value for one in points if metric in one.metrics},
    )


def _main_metric(result: EvaluationResult) -> str | None:
    """The figure that a list shows of an evaluation."""
    names = list(dict.fromkeys(name for point in result.points for name in point.metrics))
    return MAIN_METRIC if MAIN_METRIC in names else next(iter(names), None)
