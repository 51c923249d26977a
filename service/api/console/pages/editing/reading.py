"""Facts from a pasted table, CSV, JSON, JSON lines or a file of a dataset, for the table."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, Field

from jeep_core.suites import InvalidSuite
from service.api.console.pages.editing.tables import read_facts
from service.api.http.access import needs
from service.api.http.auditing import changes_nothing
from service.api.http.problems import ApiProblem, invalid
from service.api.http.sessions import CONSOLE
from service.api.state import ApiState, State
from service.api.submission.record_files import check_format, located
from service.contracts.schemas.access import Scope

router = APIRouter()

PROBLEMS_SHOWN = 20


class ReadFacts(BaseModel):
    """The facts of a text, as an edit takes them, and what could not be read.

    ``problems`` are the first of ``lost``, in words.
    """

    facts: list[dict[str, Any]]
    records: int
    format: str
    lost: int = 0
    problems: list[str] = Field(default_factory=list)


@router.post(f"{CONSOLE}/edit/read")
@needs(Scope.EDIT)
async def edit_read(
    request: Request,
    state: State,
    format: str | None = None,
    limit: Annotated[int | None, Query(ge=1)] = None,
) -> ReadFacts:
    """Read facts; nothing is stored and nothing edited."""
    changes_nothing(request)
    check_format(format)
    body = await request.body()
    return await run_in_threadpool(_read, state, body, format, limit)


def _read(state: ApiState, body: bytes, format: str | None, limit: int | None) -> ReadFacts:
    """The facts of a text.

    Raises:
        ApiProblem: 422 for a text of which nothing can be read, with the reasons.
    """
    model = state.models.get()
    most = min(limit or state.settings.max_facts, state.settings.max_facts)
    try:
        found = read_facts(body, format, most, model.info.relations, model.chat)
    except InvalidSuite as error:
        raise invalid([located(one) for one in error.problems], "invalid_facts") from None
    if not found.facts:
        raise ApiProblem("invalid_facts", "no record has a fact: " + "; ".join(found.problems[:3]))
    return ReadFacts(
        facts=found.facts,
        records=found.records,
        format=found.format,
        lost=len(found.problems) + found.unread,
        problems=found.problems[:PROBLEMS_SHOWN],
    )
