"""``/facts``: which edit governs what the model says about a subject."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response
from pydantic import Field

from service.api.http.access import needs
from service.api.http.paging import AFTER, Limit, Page, take
from service.api.http.problems import documented
from service.api.state import State
from service.contracts.schemas import FactEntry
from service.contracts.schemas.access import Scope
from service.store.index import listing
from service.store.index.facts import Place

router = APIRouter(tags=["facts"])

LONGEST_SEARCH = 200
NUMBER = r"(0|[1-9]\d{0,17})"


class FactPage(Page[FactEntry]):
    """One page of a version's facts, those of the latest batch first."""

    version: str = Field(description="Whose facts these are.")


@router.get("/facts", responses=documented(404, 422))
@needs(Scope.READ)
def list_facts(
    state: State,
    response: Response,
    subject: Annotated[
        str | None, Query(description="Compared in Unicode NFC and without white space around.")
    ] = None,
    version: Annotated[
        str, Query(description="A version id, a snapshot name, or `head`.")
    ] = "head",
    contains: Annotated[
        str | None,
        Query(
            max_length=LONGEST_SEARCH,
            description="Only facts whose subject, prompt or new answer contains this text, "
            "whatever the case.",
        ),
    ] = None,
    holds: Annotated[
        bool | None,
        Query(
            description="Only facts that held when they were last asked (`true`), or did not "
            "(`false`); the answer after a fact's own edit counts until a later one asks it again."
        ),
    ] = None,
    limit: Limit = 50,
    after: Annotated[
        str | None, Query(pattern=rf"^v{NUMBER}\.v{NUMBER}\.{NUMBER}$", description=AFTER)
    ] = None,
) -> FactPage:
    """With a `subject`: all its facts in the history of a version.  `live` ones govern what the
    version says, `superseded` ones were edited again by a later batch.  Without: all live facts.
    `checked_in` is the version after whose edit a fact was last asked.

    The pages of one list belong to one version, also where head moves in between.
    """
    tip, place = _cursor(after) if after else (version, None)
    tip = state.store.names.resolve(tip)
    entries = listing.facts(
        state.store, tip, subject=subject, containing=contains or None, holds=holds, after=place
    )
    data, has_more = take(entries, limit)
    following = f"{tip}.{data[-1].version}.{data[-1].index}" if has_more else None
    response.headers["X-Model-Version"] = tip
    return FactPage(data=data, has_more=has_more, next=following, version=tip)


def _cursor(after: str) -> tuple[str, Place]:
    """The version that a list is of, and the fact that it goes on after."""
    tip, version, index = after.split(".")
    return tip, Place(version, int(index))
