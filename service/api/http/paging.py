"""Lists with cursors: ``?limit=&after=`` and ``{data, has_more, next}``."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Annotated, Generic, TypeVar

from fastapi import Query
from pydantic import BaseModel, Field

T = TypeVar("T")

Limit = Annotated[int, Query(ge=1, le=200, description="Entries per page.")]
AFTER = "Cursor: `next` of the page before."


class Page(BaseModel, Generic[T]):
    """One page of a list, newest first."""

    data: list[T]
    has_more: bool
    next: str | None = Field(description="Give it as `after` to get the following page.")


def take(items: Iterable[T], limit: int) -> tuple[list[T], bool]:
    """The first ``limit`` items, and whether there are more."""
    taken = list(islice(items, limit + 1))
    return taken[:limit], len(taken) > limit
