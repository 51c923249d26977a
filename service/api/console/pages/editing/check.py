"""The live check: what an edit would do, as it is typed, and what the model says now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, Field

from jeep_core.spec.facts import question_key, same_answer
from jeep_core.text.counting import counted
from service.api.console.calls import Calls
from service.api.http.access import caller_of, needs
from service.api.http.auditing import changes_nothing
from service.api.http.bodies import read_json
from service.api.http.problems import ApiProblem, field_error, invalid
from service.api.http.sessions import CONSOLE
from service.api.state import State
from service.contracts.jobs import JobError
from service.contracts.schemas import EditPlan, FactPlan, GenerateResult
from service.contracts.schemas.access import Scope
from service.contracts.schemas.edits import Duplicate
from service.store import Store, StoreError
from service.store.index import listing

router = APIRouter()

MOST_SHOWN = 100
"""Facts whose tokens one answer shows: those of the part of the table that is in sight."""
OTHERS_SHOWN = 2
ANSWER_TOKENS = 10
SHOWN_TOKENS = 400


class Conflict(BaseModel):
    """A live fact that has to do with one of the table.

    ``same``: it is the same question; ``known``: it has the same answer, too.
    """

    same: bool
    known: bool
    version: str
    prompt: str
    target_new: str


class CheckedFact(BaseModel):
    """A fact of the table: how it will be tokenized, and the facts that it meets."""

    index: int
    asked: str
    text: str
    tokens: list[str]
    subject_last: int
    prediction: int
    target_tokens: list[str]
    chat_text: str | None = None
    conflicts: list[Conflict] = Field(default_factory=list)


class Checked(BaseModel):
    """The facts of an edit, and of how it would be computed, before it is submitted.

    ``errors`` are the interface's, with pointers; without any there is a plan, whose parts are
    here.  ``replaces``: how many of all facts ask the same question as a live one with
    another answer; ``known``: how many are live ones.
    """

    errors: list[dict[str, str]] = Field(default_factory=list)
    detail: str = ""
    facts: list[CheckedFact] = Field(default_factory=list)
    duplicates: list[Duplicate] = Field(default_factory=list)
    obstacles: list[JobError] = Field(default_factory=list)
    warnings: list[str] = Field(default_factory=list)
    about: list[str] = Field(default_factory=list)
    replaces: int = 0
    known: int = 0


class Said(BaseModel):
    """The answer of head to a prompt; ``failed``: why it says nothing."""

    prompt: str
    text: str = ""
    failed: str = ""


class SaidList(BaseModel):
    """Answers in the order of the prompts."""

    version: str
    said: list[Said]


@router.post(f"{CONSOLE}/edit/check")
@needs(Scope.EDIT)
async def edit_check(
    request: Request,
    state: State,
    first: Annotated[int, Query(ge=0)] = 0,
    count: Annotated[int, Query(ge=0, le=MOST_SHOWN)] = MOST_SHOWN,
) -> Checked:
    """Check an edit as it is now.  Of the facts ``first``, ``first + 1``, … tokens are shown."""
    changes_nothing(request)
    body = await read_json(request)
    if not isinstance(body, dict):
        raise invalid([field_error("", "model_type", "the body must be an object")])
    try:
        plan = await Calls(request).post("/edits", EditPlan, body, dry_run=True)
    except ApiProblem as problem:
        if problem.status not in (409, 412, 413, 422):
            raise
        return Checked(errors=problem.errors, detail=problem.detail)
    shown = range(first, first + count)
    some = [fact for fact in plan.facts if fact.index in shown]
    met, replaced, known = None, 0, 0
    if caller_of(request).may(Scope.READ):
        met, replaced, known = await run_in_threadpool(_met, state.store, plan.facts, some)
    facts = [_checked(fact, met[i] if met else []) for i, fact in enumerate(some)]
    return Checked(
        facts=facts,
        duplicates=plan.duplicates,
        obstacles=plan.obstacles,
        warnings=plan.warnings,
        about=_about(plan),
        replaces=replaced,
        known=known,
    )


@router.post(f"{CONSOLE}/edit/says")
@needs(Scope.GENERATE)
async def edit_says(request: Request) -> SaidList:
    """Answers of head to prompts, as it is now."""
    given = await read_json(request)
    prompts = given.get("prompts") if isinstance(given, dict) else None
    body = {"prompts": prompts, "max_new_tokens": ANSWER_TOKENS, "stop": [".", "\n"]}
    found = (await Calls(request).post("/generate", GenerateResult, body)).results
    said = [
        Said(prompt=one.prompt, text=one.text, failed=one.error.message if one.error else "")
        for one in found
    ]
    return SaidList(version=found[0].version, said=said)


def _met(
    store: Store, facts: Sequence[FactPlan], shown: Sequence[FactPlan]
) -> tuple[list[list[Conflict]], int, int]:
    """The conflicts of the facts that are shown; how many of all facts head was taught with other
    answers, and with the same ones.

    None while they cannot be read, which other pages say.
    """
    try:
        head = store.head.read().version
        found = [_conflicts(store, head, fact) for fact in shown]
        asked = [(one.subject, one.prompt, one.target_new) for one in facts]
        return found, *listing.taught(store, head, asked)
    except StoreError:
        return [[] for _ in shown], 0, 0


def _checked(fact: FactPlan, conflicts: list[Conflict]) -> CheckedFact:
    length = len(fact.text) - len(fact.target_new) - (fact.join == "space")
    return CheckedFact(
        index=fact.index,
        asked=fact.text[: max(length, 0)],
        text=fact.text,
        tokens=fact.tokens[:SHOWN_TOKENS],
        subject_last=fact.subject_last,
        prediction=fact.prediction,
        target_tokens=fact.target_tokens,
        chat_text=fact.chat_text,
        conflicts=conflicts,
    )


def _conflicts(store: Store, head: str, fact: FactPlan) -> list[Conflict]:
    """The live facts of head that a fact replaces or stands beside, the replaced one first."""
    about = listing.facts(store, head, subject=fact.subject)
    found = [one for one in about if one.state == "live"]
    key = question_key(fact.subject, fact.prompt)
    same = [one for one in found if question_key(one.subject, one.prompt) == key]
    others = [one for one in found if one not in same]
    return [
        Conflict(
            same=one in same,
            known=one in same and same_answer(one.target_new, fact.target_new),
            version=one.version,
            prompt=one.text,
            target_new=one.target_new,
        )
        for one in [*same, *others[:OTHERS_SHOWN]]
    ]


def _about(plan: EditPlan) -> list[str]:
    """How the edit would be computed, in sentences."""
    how = f"{plan.editor}, preset {plan.preset}" if plan.preset else plan.editor
    said = [f"{counted(len(plan.facts), 'fact')} with {how}"]
    if plan.editor_reason:
        said.append(plan.editor_reason)
    if plan.source not in ("preset", "given"):
        said.append(f"hyper-parameters: {plan.source}")
    if plan.moments:
        said.append(f"second moments: {plan.moments}")
    return said
