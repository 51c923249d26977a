"""The first minute: three facts to try on the model that is loaded, and the way back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool

from jeep_core.atlas import MODELS
from jeep_core.probe.defaults.general import general_knowledge
from jeep_core.spec.facts import Fact
from service.api.console.calls import Calls, at
from service.api.console.forms import read_form
from service.api.console.rendering import CHANGED, filled, fragment, page
from service.api.http.access import needs
from service.api.http.sessions import CONSOLE
from service.api.state import ApiState, State
from service.contracts.jobs import TERMINAL, JobStatus
from service.contracts.schemas import EditResult, GenerateResult, JobOut, RollbackResult
from service.contracts.schemas.access import Scope
from service.store import Store

router = APIRouter()

SHOWN = 3
ASKED = 18
"""Facts that the model is asked to find some that it knows; the first ones if it knows none."""
ANSWER_TOKENS = 8
_CITY = "{} is a city in the country of"
BUNDLED = (
    Fact("Lyon", _CITY, "Japan", "France"),
    Fact("Osaka", _CITY, "Mexico", "Japan"),
    Fact("Nairobi", _CITY, "Canada", "Kenya"),
)
"""Of the world that the bundled models know."""


def is_new(store: Store) -> bool:
    """Whether a store has never held a version but base."""
    return store.versions.newest_number() < 1


@router.get(f"{CONSOLE}/start")
@needs(Scope.READ)
async def start_page(request: Request, state: State) -> Response:
    """The page; its facts follow when the model has been asked."""
    info = await run_in_threadpool(state.store.base.info)
    return page(request, "start.html", model=info.model if info else None)


@router.get(f"{CONSOLE}/start/facts")
@needs(Scope.GENERATE)
async def start_facts(request: Request, state: State) -> Response:
    """The three facts with what the model says now."""
    facts = await run_in_threadpool(to_try, state)
    says = await _answers(Calls(request), facts)
    knows = [i for i, fact in enumerate(facts) if _begins(says[i], fact.target_true)]
    others = [i for i in range(len(facts)) if i not in knows]
    chosen = (knows + others)[:SHOWN]
    rows = [(i, facts[i], says[i]) for i in chosen]
    return fragment(request, "parts/start_facts.html", rows=rows)


@router.post(f"{CONSOLE}/start/edit")
@needs(Scope.EDIT)
async def start_edit(request: Request, state: State) -> Response:
    """Submit the edit of the facts that the page has shown."""
    form = await read_form(request)
    facts = await run_in_threadpool(to_try, state)
    numbers = [int(text) for text in form.all("fact") if text.isdecimal() and text.isascii()]
    chosen = [facts[i] for i in dict.fromkeys(numbers) if i < len(facts)][:SHOWN]
    body = {"facts": [_sent(fact) for fact in chosen]}
    job = await Calls(request).post("/edits", JobOut, body)
    return fragment(request, "parts/start_job.html", job=job, ended=job.status in TERMINAL)


@router.get(CONSOLE + "/start/edit/{id}")
@needs(Scope.READ)
async def start_progress(id: str, request: Request) -> Response:
    """How far the edit is; in the end what base and the new version say."""
    calls = Calls(request)
    job = await calls.get(at("/jobs/{}", id), JobOut)
    if job.status is not JobStatus.SUCCEEDED:
        return fragment(request, "parts/start_job.html", job=job, ended=job.status in TERMINAL)
    result = EditResult.model_validate(job.result)
    return fragment(request, "parts/start_done.html", headers=CHANGED, result=result)


@router.post(f"{CONSOLE}/start/back")
@needs(Scope.EDIT)
async def start_back(request: Request) -> Response:
    """Move head to base."""
    moved = await Calls(request).post("/rollback/base", RollbackResult, {"why": "first minute"})
    return fragment(request, "parts/start_back.html", headers=CHANGED, moved=moved)


def to_try(state: ApiState) -> tuple[Fact, ...]:
    """Facts for the model that is loaded: of the bundled world, or of general knowledge.

    Raises:
        ApiProblem: 503 while no worker has ever loaded a model.
    """
    model = state.models.get().info.model
    return BUNDLED if model in MODELS else general_knowledge()[:ASKED]


async def _answers(calls: Calls, facts: Sequence[Fact]) -> list[str]:
    """The beginnings of head's answers to the facts' prompts."""
    prompts = [filled(fact.prompt, fact.subject) for fact in facts]
    body = {"prompts": prompts, "max_new_tokens": ANSWER_TOKENS, "stop": ["."]}
    found = await calls.post("/generate", GenerateResult, body)
    return [one.text.strip() for one in found.results]


def _begins(text: str, answer: str | None) -> bool:
    return answer is not None and text.lower().startswith(answer.lower())


def _sent(fact: Fact) -> dict[str, Any]:
    names = ("subject", "prompt", "target_new", "target_true")
    return {name: getattr(fact, name) for name in names}
