"""An edit that was submitted: how far it is, and what became of each of its facts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from jeep_core.text.chat import has_template
from service.api.console.calls import Calls, at
from service.api.console.pages.models import model_or_reason
from service.api.console.rendering import CHANGED, fragment, page
from service.api.http.access import caller_of, needs
from service.api.http.problems import ApiProblem
from service.api.http.sessions import CONSOLE
from service.api.state import ApiState, State
from service.contracts.jobs import TERMINAL, JobStatus
from service.contracts.schemas import Edit, EditResult, FactOutcome, FactRecord, GenerateResult
from service.contracts.schemas.access import Scope
from service.contracts.schemas.effects.guards import GuardFigures, Guards, outcomes

router = APIRouter()

FACTS_SHOWN = 50
LOST_SHOWN = 50
QUESTIONS_SHOWN = 12
"""Prompts of a kind that one fact is asked."""
ANSWER_TOKENS = 10
STOP = [".", "\n"]
Which = Literal["all", "missed", "harder"]


@dataclass(frozen=True)
class GuardRow:
    """A figure that was measured for the guards, the parent's, and the limit that it keeps.

    ``key``: its name among the protocols of the result.
    """

    name: str
    key: str
    figure: str
    before: str
    limit: str


@dataclass(frozen=True)
class Asked:
    """A prompt that tests a fact, with the answers of both versions.

    ``as_wanted``: what it shows is as it should be; None: there is nothing to compare it with.
    """

    prompt: str
    before: str
    after: str
    as_wanted: bool | None


@router.get(CONSOLE + "/edit/{id}")
@needs(Scope.READ)
async def edit_shown(id: str, request: Request) -> Response:
    """The page of one edit."""
    edit = await Calls(request).get(at("/edits/{}", id), Edit)
    return page(request, "editing/shown.html", **_about(edit), **_facts_of(edit, "all", 0))


@router.get(CONSOLE + "/edit/{id}/outcome")
@needs(Scope.READ)
async def edit_outcome(id: str, request: Request) -> Response:
    """How far an edit is, or what became of it; loaded again when its job has ended."""
    edit = await Calls(request).get(at("/edits/{}", id), Edit)
    headers = CHANGED if edit.status in TERMINAL else None
    values = {**_about(edit), **_facts_of(edit, "all", 0)}
    return fragment(request, "editing/outcome.html", headers=headers, **values)


@router.get(CONSOLE + "/edit/{id}/facts")
@needs(Scope.READ)
async def edit_facts(
    id: str, request: Request, which: Which = "all", first: Annotated[int, Query(ge=0)] = 0
) -> Response:
    """A part of the facts of an edit that has ended."""
    edit = await Calls(request).get(at("/edits/{}", id), Edit)
    return fragment(request, "editing/facts.html", edit=edit, **_facts_of(edit, which, first))


@router.get(CONSOLE + "/edit/{id}/facts/{index}")
@needs(Scope.READ)
async def edit_questions(id: str, index: int, request: Request, state: State) -> Response:
    """The rephrasings and neighbours of a fact, asked of the version and of its parent."""
    calls = Calls(request)
    edit = await calls.get(at("/edits/{}", id), Edit)
    result = edit.result
    place = None if result is None else _place_of(result, index)
    if result is None or place is None or place >= len(edit.facts):
        raise ApiProblem("not_found", f"the edit has no fact {index}")
    fact = edit.facts[place]
    if not caller_of(request).may(Scope.GENERATE):
        return fragment(request, "editing/questions.html", refused=True, fact=fact, kinds=[])
    chats = await run_in_threadpool(_chats, state)
    found = []
    for title, prompts, wanted in (
        ("Rephrasings", fact.paraphrase_prompts, fact.target_new),
        ("Neighbours", fact.neighborhood_prompts, None),
    ):
        some = prompts[:QUESTIONS_SHOWN]
        plain = await _ask(calls, some, result, wanted) if some else []
        chat = await _ask_in_chat(calls, some, result, wanted) if some and chats else []
        found.append((title, len(prompts), plain, chat))
    return fragment(
        request, "editing/questions.html", refused=False, fact=fact, kinds=found, result=result
    )


def _place_of(result: EditResult, index: int) -> int | None:
    """Where the fact that came as ``index`` is among those that were edited."""
    return next((i for i, one in enumerate(result.facts) if one.index == index), None)


def _chats(state: ApiState) -> bool:
    model, _ = model_or_reason(state)
    return model is not None and has_template(model)


async def _ask(
    calls: Calls, prompts: Sequence[str], result: EditResult, wanted: str | None
) -> list[Asked]:
    """Prompts as plain text, of both versions."""
    body = {
        "prompts": list(prompts),
        "version": [result.parent, result.version],
        "max_new_tokens": ANSWER_TOKENS,
        "stop": STOP,
    }
    found = (await calls.post("/generate", GenerateResult, body)).results
    texts = [one.text.strip() for one in found]
    pairs = zip(prompts, texts[::2], texts[1::2], strict=True)
    return [asked_of(prompt, before, after, wanted) for prompt, before, after in pairs]


async def _ask_in_chat(
    calls: Calls, prompts: Sequence[str], result: EditResult, wanted: str | None
) -> list[Asked]:
    """Prompts as the user's messages of chats, of both versions."""

    async def ask(prompt: str) -> Asked:
        body = {
            "messages": [{"role": "user", "content": prompt}],
            "version": [result.parent, result.version],
            "max_new_tokens": 2 * ANSWER_TOKENS,
            "stop": STOP,
        }
        found = (await calls.post("/generate", GenerateResult, body)).results
        before, after = (one.text.strip() for one in found)
        return asked_of(prompt, before, after, wanted)

    return list(await asyncio.gather(*map(ask, prompts)))


def asked_of(prompt: str, before: str, after: str, wanted: str | None) -> Asked:
    """A prompt with its answers: ``wanted`` shall be in the new one, or else nothing change."""
    as_wanted = before == after if wanted is None else wanted.strip().lower() in after.lower()
    return Asked(prompt, before, after, as_wanted)


def _about(edit: Edit) -> dict[str, Any]:
    """Values for the templates of an edit, beside its facts."""
    result = edit.result
    said: dict[str, Any] = {
        "edit": edit,
        "result": result,
        "ended": edit.status in TERMINAL,
        "failed": edit.status is JobStatus.FAILED,
        "guards": guard_rows(result.guards, edit.guards) if result and result.guards else [],
        "lost_shown": LOST_SHOWN,
    }
    if result is not None:
        said["hold"] = sum(one.success for one in result.facts)
        said["lost"] = result.earlier.lost if result.earlier else []
    return said


def _facts_of(edit: Edit, which: Which, first: int) -> dict[str, Any]:
    """One part of the facts with their outcomes."""
    result = edit.result
    if result is None:
        rows: list[tuple[FactRecord, FactOutcome | None]] = [(fact, None) for fact in edit.facts]
    else:
        rows = _outcomes(edit, result, which)
    shown = rows[first : first + FACTS_SHOWN]
    following = first + FACTS_SHOWN
    return {
        "rows": shown,
        "which": which,
        "first": first,
        "count": len(rows),
        "previous": max(0, first - FACTS_SHOWN) if first else None,
        "next": following if following < len(rows) else None,
    }


def _outcomes(
    edit: Edit, result: EditResult, which: Which
) -> list[tuple[FactRecord, FactOutcome | None]]:
    """Facts with outcomes: all, those that do not hold, or all with the weakest first.

    The last facts of a result can be earlier ones that the edit has mended: the request had none.
    """
    records = [*edit.facts, *map(_record_of, result.facts[len(edit.facts) :])]
    rows: list[tuple[FactRecord, FactOutcome | None]] = list(
        zip(records, result.facts, strict=True)
    )
    if which == "missed":
        return [row for row in rows if row[1] is not None and not row[1].success]
    if which == "harder":
        return sorted(rows, key=lambda row: 1.0 if row[1] is None else row[1].after.p_new)
    return rows


def _record_of(outcome: FactOutcome) -> FactRecord:
    names = ("subject", "prompt", "target_new", "target_true")
    return FactRecord(**{name: getattr(outcome, name) for name in names})


def guard_rows(figures: GuardFigures, limits: Guards | None) -> list[GuardRow]:
    """The figures that were measured for the guards of an edit, each with the parent's and its
    limit, where it has one.
    """
    bounds = {
        name.partition("_")[2]: f"at {'least' if name.startswith('min_') else 'most'} {limit:.4g}"
        for name, limit, _ in outcomes(limits, figures)
    }

    def shown(value: float | None) -> str:
        return "–" if value is None else f"{value:.4g}"

    rows = [
        ("success", "success", figures.success_before),
        ("efficacy", "efficacy", figures.efficacy_before),
        ("locality", "locality", figures.locality_before),
        ("perplexity", "perplexity", figures.perplexity_before),
        ("perplexity, as a multiple", "perplexity_ratio", None),
        ("drift, nats per token", "drift", None),
        ("ability", "ability", None),
    ]
    return [
        GuardRow(
            name,
            f"guards.{field.removesuffix('_ratio')}",
            shown(after),
            shown(before),
            bounds.get(field, "–"),
        )
        for name, field, before in rows
        if (after := getattr(figures, field)) is not None
    ]
