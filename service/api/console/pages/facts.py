"""Facts: which edit governs a subject, whether the model still says it, the history of one fact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from jeep_core.spec.facts import question_key
from service.api.console.calls import Calls
from service.api.console.forms import read_form
from service.api.console.rendering import fragment, page
from service.api.http.access import needs
from service.api.http.problems import ApiProblem
from service.api.http.sessions import CONSOLE
from service.api.resources.facts import LONGEST_SEARCH, FactPage
from service.api.state import State
from service.contracts.schemas import FactEntry, GenerateResult
from service.contracts.schemas.access import Scope
from service.store import Store, UnknownVersion
from service.store.history import facts_of
from service.store.index import listing

router = APIRouter()

FACTS = f"{CONSOLE}/facts"
FACT = f"{FACTS}/{{version}}/{{index}}"
ROWS = 50
ANSWER_TOKENS = 12
EVENTS_SHOWN = 100
ALWAYS_THERE = ("head", "base")
"""Versions that are only missing before a worker has ever loaded the model."""
Search = Annotated[str, Query(max_length=LONGEST_SEARCH)]
Ref = Annotated[str, Query(max_length=200)]
Holds = Annotated[Literal["", "true", "false"], Query()]


@dataclass(frozen=True)
class Event:
    """A moment in a fact's history: ``kind`` is ``taught`` or ``asked``.

    ``fact`` is what was taught; ``holds`` what an edit found when it asked.
    """

    kind: str
    version: str
    when: datetime
    fact: FactEntry | None = None
    holds: bool | None = None


@router.get(FACTS)
@needs(Scope.READ)
async def facts_page(
    request: Request, search: Search = "", version: Ref = "head", holds: Holds = ""
) -> Response:
    """The page, with the first facts that are found."""
    found, wrong = None, ""
    try:
        found = await _found(Calls(request), search, version, holds)
    except ApiProblem as problem:
        if problem.code != "unknown_version":
            raise
        if version.strip() not in ALWAYS_THERE:
            wrong = problem.detail
    values: dict[str, Any] = {"rows": [], "next": None, "of": version}
    values |= _rows(found, search) if found else {}
    status = 404 if wrong else 200
    values["unloaded"] = found is None and not wrong
    values |= {"search": search, "version": version, "wrong": wrong, "first": True}
    values["holds_only"] = holds
    return page(request, "facts/facts.html", status, **values)


@router.get(f"{FACTS}/rows")
@needs(Scope.READ)
async def facts_rows(
    request: Request,
    search: Search = "",
    version: Ref = "head",
    holds: Holds = "",
    after: Annotated[str | None, Query(max_length=60)] = None,
) -> Response:
    """Some facts: those that are found, or those after a cursor."""
    found = await _found(Calls(request), search, version, holds, after)
    values = _rows(found, search) | {"version": version, "holds_only": holds}
    return fragment(request, "facts/rows.html", **values, first=after is None)


@router.get(FACT)
@needs(Scope.READ)
async def fact_page(version: str, index: int, request: Request, state: State) -> Response:
    """One fact: what governs it now, and what became of it."""
    history = await run_in_threadpool(_history, state.store, version, index)
    return page(request, "facts/fact.html", **history)


@router.post(f"{FACTS}/ask")
@needs(Scope.GENERATE)
async def ask_now(request: Request) -> Response:
    """The answer of head to a fact's prompt, and how probable the answers are that were taught."""
    form = await read_form(request)
    candidates = list(dict.fromkeys(text for text in form.all("candidate") if text.strip()))
    body: dict[str, Any] = {"version": form.get("version", "head"), "candidates": candidates}
    body |= {"prompt": form.get("prompt"), "max_new_tokens": ANSWER_TOKENS}
    found = await Calls(request).post("/generate", GenerateResult, body)
    return fragment(request, "facts/answer.html", answer=found.results[0])


async def _found(
    calls: Calls, search: str, version: str, holds: str, after: str | None = None
) -> FactPage:
    query = {"contains": search.strip() or None, "version": version.strip(), "after": after}
    query["holds"] = holds or None
    return await calls.get("/facts", FactPage, limit=ROWS, **query)


def _rows(found: FactPage, search: str) -> dict[str, Any]:
    return {"rows": found.data, "next": found.next, "of": found.version, "search": search}


def _history(store: Store, version: str, index: int) -> dict[str, Any]:
    """A fact in head's line, or in its own version's where head's has not got it.

    Raises:
        ApiProblem: 404.
        CorruptFile: a record of the line cannot be read.
    """
    head = store.head.read().version
    try:
        taught = facts_of([store.versions.read(version)])
    except UnknownVersion:
        raise _no_fact(version, index) from None
    fact = next((one for one in taught if one.index == index), None)
    if fact is None:
        raise _no_fact(version, index)
    in_head = listing.is_built_on(store, head, version)
    tip = head if in_head else version
    key = question_key(fact.subject, fact.prompt)

    def same(one: FactEntry) -> bool:
        return question_key(one.subject, one.prompt) == key

    of_subject = list(listing.facts(store, tip, subject=fact.subject))
    about = [one for one in of_subject if same(one)]
    in_heads = about
    if not in_head:
        in_heads = [one for one in listing.facts(store, head, subject=fact.subject) if same(one)]
    events = _events(store, tip, about)
    shown = next(one for one in about if (one.version, one.index) == (version, index))
    return {
        "fact": shown,
        "now": next((one for one in in_heads if one.state == "live"), None),
        "head": head,
        "in_head": in_head,
        "events": events[:EVENTS_SHOWN],
        "earlier_events": len(events[EVENTS_SHOWN:]),
        "others": [one for one in of_subject if one.state == "live" and not same(one)],
        "answers": list(dict.fromkeys(one for each in about for one in _answers(each))),
    }


def _no_fact(version: str, index: int) -> ApiProblem:
    return ApiProblem("not_found", f"{version!r} has taught no fact with the number {index}")


def _answers(fact: FactEntry) -> list[str]:
    return [text for text in (fact.target_new, fact.target_true) if text]


def _events(store: Store, tip: str, about: Sequence[FactEntry]) -> list[Event]:
    """Everything that happened to a question in a line, newest first."""
    events = []
    for fact in about:
        events.append(Event("taught", fact.version, fact.created_at, fact=fact))
        for asked in listing.checks(store, tip, fact):
            when = store.versions.read(asked.version).created_at
            events.append(Event("asked", asked.version, when, fact=fact, holds=asked.holds))
    # within a version: taught, then asked
    ordered = sorted(events, key=_order)
    return ordered[::-1]


def _order(event: Event) -> tuple[int, bool]:
    """Versions of one line rise in number."""
    return int(event.version[1:]), event.kind == "asked"
