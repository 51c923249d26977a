"""``/explain``: which facts moved an answer of a version, and where."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool

from service.api.http.access import check_scope, needs
from service.api.http.bodies import json_request_body, read_model
from service.api.http.logs import log_texts
from service.api.http.problems import ApiProblem, documented
from service.api.http.worker_calls import result, worker_request
from service.api.model import PublishedModel
from service.api.resources.generate import checked
from service.api.state import ApiState, State
from service.contracts.schemas import GenerateRequest
from service.contracts.schemas.access import Scope
from service.contracts.schemas.effects.explanation import ExplainAsk, ExplainRequest, ExplainResult

router = APIRouter(tags=["generate"])

DESCRIPTION = """\
Says which facts moved the probability of an answer, and where.

At every edited matrix and token: how much the column of each fact adds to the output, which is
what the output loses if that fact alone is taken out there.  By layer: the answer's probability
once the matrices up to it are edited.  For the facts with the largest shares: the probability
without them.  Editors whose updates have no column for each fact answer 409 `not_explainable` with
the reason; a version that has edits of both kinds is explained, such batches as a whole.

Facts are shown, so the key needs the scope `read`, too.
"""


@router.post(
    "/explain",
    description=DESCRIPTION,
    response_model=ExplainResult,
    responses=documented(400, 404, 409, 413, 415, 422, 503, 504),
    openapi_extra=json_request_body(ExplainRequest),
)
@needs(Scope.GENERATE)
async def explain(request: Request, state: State) -> ExplainResult:
    """Explain an answer of a version by the facts that were edited."""
    given = await read_model(request, ExplainRequest)
    check_scope(request, Scope.READ, "an explanation")
    model = await run_in_threadpool(state.models.get)
    ask, version = await run_in_threadpool(_checked, state, given, model)
    log_texts(request, state.settings, "prompts", [ask.prompt])
    await state.require_any_worker()
    asked = worker_request(state, "explain", [version], ask.model_dump(mode="json"), [version])
    return ExplainResult.model_validate(await result(state, request, asked))


def _checked(
    state: ApiState, given: ExplainRequest, model: PublishedModel
) -> tuple[ExplainAsk, str]:
    """The request as the worker takes it, and the id of its version.

    The same holds for prompt and answer as for a prompt and a candidate of ``/generate``.

    Raises:
        ApiProblem: 422 with a pointer per wrong field, 413 if only limits are exceeded.
    """
    as_generate = GenerateRequest.model_validate(
        {
            **given.model_dump(include={"prompt", "messages", "version", "join"}),
            "max_new_tokens": 1 if given.answer is None else 0,
            "candidates": [] if given.answer is None else [given.answer],
        }
    )
    try:
        body, [version] = checked(state, as_generate, model)
    except ApiProblem as problem:
        errors = [
            {name: text.replace("/candidates/0", "/answer") for name, text in error.items()}
            for error in problem.errors
        ]
        detail = problem.detail.replace("/candidates/0", "/answer")
        raise ApiProblem(problem.code, detail, errors) from None
    ask = ExplainAsk(prompt=str(body.prompt), answer=given.answer, join=given.join, top=given.top)
    return ask, version
