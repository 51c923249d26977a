"""Facts: which edit governs a subject, whether the model still says it, the history of one fact."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from jeep_core.spec.facts import question_key
from service.api.console.calls import Calls, at
from service.api.console.forms import read_form
from service.api.console.rendering import CHANGED, fragment, page
from service.api.http.access import caller_of, needs
from service.api.http.problems import ApiProblem
from service.api.http.sessions import CONSOLE
from service.api.resources.facts import CHECKS, LONGEST_SEARCH, FactPage
from service.api.state import ApiState, State
from service.contracts.jobs import TERMINAL, JobKind, JobStatus
from service.contracts.schemas import FactEntry, GenerateResult, JobOut
from service.contracts.schemas.access import Scope
from service.contracts.schemas.effects.checks import Check
from service.store import CorruptFile, Store, UnknownJob, UnknownVersion
from service.store.history import LAST_ASKED, Asked, facts_of
from service.store.index import listing

router = APIRouter()

FACTS = f"{CONSOLE}/facts"
FACT = f"{FACTS}/{{version}}/{{index}}"
CHECK = f"{FACTS}/check"
CHECKED = {"HX-Trigger": "jeep-checked, jeep-changed"}
"""As `CHANGED`, and has the page read its facts again, as they may be found otherwise."""
CHECKS_LOOKED_AT = 200
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

    ``fact`` is what was taught; ``holds`` what an edit, or the check ``check_id``, found when it
    asked.
    """

    kind: str
    version: str
    when: datetime
    fact: FactEntry | None = None
    holds: bool | None = None
    check_id: str | None = None


@router.get(FACTS)
@needs(Scope.READ)
async def facts_page(
    request: Request,
    state: State,
    search: Search = "",
    version: Ref = "head",
    holds: Holds = "",
) -> Response:
    """The page, with the first facts that are found and the newest check of all of them."""
    found, wrong, calls = None, "", Calls(request)
    try:
        found = await _found(calls, search, version, holds)
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
    values |= {"holds_only": holds, "live": 0}
    if found is not None:
        values |= await _whole(state, calls, found.version)
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


@router.post(CHECK)
@needs(CHECKS.scope)
async def check_all(request: Request) -> Response:
    """Queue a check of all live facts of a version."""
    calls, version = Calls(request), (await read_form(request)).get("version")
    job = await calls.post("/checks", JobOut, {"version": version})
    if not caller_of(request).may(Scope.READ):
        return fragment(request, "facts/check.html", accepted=job.id)
    return await _check(request, str(job.resource_id))


@router.get(CHECK)
@needs(Scope.READ)
async def check_part(request: Request, id: Annotated[str, Query(max_length=60)]) -> Response:
    """How far a check is, or what it has found."""
    return await _check(request, id)


async def _check(request: Request, check_id: str) -> Response:
    found = _about(await Calls(request).get(at("/checks/{}", check_id), Check))
    headers = CHANGED if found["waits"] else CHECKED
    return fragment(request, "facts/check.html", headers=headers, **found)


def _about(check: Check | None) -> dict[str, Any]:
    if check is None:
        return {"accepted": None, "check": None}
    waits = check.status not in TERMINAL
    return {"accepted": None, "check": check, "of": check.version, "waits": waits}


async def _whole(state: ApiState, calls: Calls, version: str) -> dict[str, Any]:
    """How many live facts a version has, and the newest check that asked it all of them."""
    live = await run_in_threadpool(listing.live_count, state.store, version)
    newest = await run_in_threadpool(_newest_check, state.store, version) if live else None
    check = await calls.get(at("/checks/{}", newest), Check) if newest else None
    return {"live": live, **_about(check)}


def _newest_check(store: Store, version: str) -> str | None:
    """The newest check of all facts of a version that nobody cancelled, among the newest ones."""
    for job in islice(store.journal.all(kind=JobKind.CHECK), CHECKS_LOOKED_AT):
        if job.status is JobStatus.CANCELLED:
            continue
        asked = CHECKS.payload(job)
        part = asked.facts != "all" or asked.subject is not None or asked.edit_id is not None
        if asked.version == version and not part:
            return asked.check_id
    return None


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
        "last_asked": LAST_ASKED,
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
            when, by = _when(store, asked), asked.check_id
            events.append(Event("asked", asked.version, when, fact, asked.holds, by))
    # within a version: taught, then asked
    ordered = sorted(events, key=_order)
    return ordered[::-1]


def _when(store: Store, asked: Asked) -> datetime:
    """When a version was asked a fact: as its edit wrote it, or by a check."""
    if asked.check_id is not None:
        with suppress(UnknownJob, CorruptFile):
            job = store.journal.read(CHECKS.job_id_of(asked.check_id))
            return job.finished_at or job.created_at
    return store.versions.read(asked.version).created_at


def _order(event: Event) -> tuple[int, bool]:
    """Versions of one line rise in number."""
    return int(event.version[1:]), event.kind == "asked"
