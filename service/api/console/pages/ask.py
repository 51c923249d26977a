"""Ask: prompts and chats, answered by versions side by side, token by token, and why."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from service.api.console.calls import Calls
from service.api.console.forms import Form, read_form
from service.api.console.rendering import fragment, page
from service.api.http.access import needs
from service.api.http.bodies import parse_json, read_json
from service.api.http.paging import Page
from service.api.http.problems import ApiProblem, field_error, invalid
from service.api.http.sessions import CONSOLE
from service.api.state import ApiState, State
from service.contracts.schemas import Snapshot
from service.contracts.schemas.access import Scope
from service.contracts.schemas.effects.explanation import ExplainResult

router = APIRouter()

USUAL_VERSIONS = ("base", "head")
VERSIONS_OFFERED = 100
USUAL_TOKENS = 24
PROBABILITIES = 5
"""Most probable tokens that are shown for each token."""


@router.get(f"{CONSOLE}/ask")
@needs(Scope.GENERATE)
async def ask_page(
    request: Request,
    state: State,
    prompt: str = "",
    version: Annotated[list[str] | None, Query()] = None,
) -> Response:
    """The page, with a prompt and versions that a link may bring."""
    about = await run_in_threadpool(_model, state)
    return page(
        request,
        "ask.html",
        **about,
        prompt=prompt,
        chosen=version or list(USUAL_VERSIONS),
        usual=USUAL_VERSIONS,
        max_tokens=state.settings.max_new_tokens,
        tokens=min(USUAL_TOKENS, state.settings.max_new_tokens),
        probabilities=PROBABILITIES,
    )


@router.get(f"{CONSOLE}/ask/versions")
@needs(Scope.READ)
async def ask_versions(request: Request) -> Response:
    """Names and ids of versions to choose from; loaded only when somebody looks for one."""
    found = await Calls(request).get("/snapshots", Page[Snapshot], limit=VERSIONS_OFFERED)
    names = [name for one in found.data for name in one.names]
    ids = [one.id for one in found.data if not one.damage]
    return fragment(request, "parts/versions.html", offered=names + ids)


@router.post(f"{CONSOLE}/ask/stream")
@needs(Scope.GENERATE)
async def ask_stream(request: Request) -> Response:
    """One prompt or chat answered by one version, as /generate streams it."""
    body = await read_json(request)
    if not isinstance(body, dict):
        raise invalid([field_error("", "model_type", "the body must be an object")])
    return Calls(request).stream("/generate", body | {"stream": True})


@router.post(f"{CONSOLE}/ask/why")
@needs(Scope.GENERATE)
async def ask_why(request: Request) -> Response:
    """The facts and layers that moved an answer, as a part of the page."""
    form = await read_form(request)
    body = {"version": form.get("version", "head"), "answer": form.get("answer") or None}
    found = await Calls(request).post("/explain", ExplainResult, body | _asked(form))
    return fragment(request, "parts/why.html", **why(found))


def why(found: ExplainResult) -> dict[str, Any]:
    """An explanation as its template shows it: a row per matrix, a column per token."""
    tokens = found.tokens[: found.answer_at] or found.tokens
    strongest = max((p.relative for m in found.matrices for p in m.places), default=0.0)
    rows = []
    for matrix in found.matrices:
        at = {place.position: place for place in matrix.places}
        rows.append((matrix, [at.get(position) for position in range(len(tokens))]))
    return {"found": found, "tokens": tokens, "rows": rows, "strongest": strongest}


def _asked(form: Form) -> dict[str, Any]:
    """The prompt or the messages of a form.

    Raises:
        ApiProblem: 422 for neither, 400 for messages that are no JSON.
    """
    prompt, messages = form.get("prompt"), form.get("messages")
    if not prompt and not messages:
        raise invalid([field_error("/prompt", "empty", "no prompt is given: ask something first")])
    return {"messages": parse_json(messages)} if messages else {"prompt": prompt}


def _model(state: ApiState) -> dict[str, Any]:
    """The model's name and whether it chats; without a model why there is none."""
    try:
        model = state.models.get()
    except ApiProblem as problem:
        return {"model": None, "chats": False, "missing": problem.detail}
    return {"model": model.info.model, "chats": model.chat is not None, "missing": ""}
