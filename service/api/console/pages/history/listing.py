"""History: all versions with the lines between them, page by page; and the audit log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from service.api.console.calls import Calls
from service.api.console.pages.history import graph
from service.api.console.rendering import fragment, page
from service.api.http.access import needs
from service.api.http.paging import Page
from service.api.http.sessions import CONSOLE
from service.api.state import State
from service.contracts.schemas import FactRecord, Manifest, Snapshot
from service.contracts.schemas.access import AuditEntry, Scope
from service.store import Store

router = APIRouter()

HISTORY = f"{CONSOLE}/history"
ROWS = 50
FACTS_NAMED = 2
NAMES_SHOWN = 200
After = Annotated[str | None, Query(pattern=r"^v(0|[1-9]\d{0,17})$")]


@dataclass(frozen=True)
class Line:
    """A version in the list: its drawing, what it changed, how many of its facts hold."""

    version: Snapshot
    drawn: graph.Row
    facts: Sequence[FactRecord]
    hold: int | None
    again_from: str | None
    branches: bool
    """Whether it is built on another version than the one below it."""


@router.get(HISTORY)
@needs(Scope.READ)
async def history_page(request: Request, state: State) -> Response:
    """The page; its rows come by themselves, as thousands of versions take a moment to read."""
    count = await run_in_threadpool(state.store.versions.newest_number)
    return page(request, "history/history.html", edits=count)


@router.get(f"{HISTORY}/rows")
@needs(Scope.READ)
async def history_rows(
    request: Request, state: State, after: After = None, lanes: str = ""
) -> Response:
    """Some rows of the list, and the way to those after them."""
    calls = Calls(request)
    found = await calls.get("/snapshots", Page[Snapshot], limit=ROWS, after=after)
    if after is None and found.data:
        head = await run_in_threadpool(state.store.head.read)
        above = graph.begin(head.version)
    else:
        above = graph.read(lanes)
    drawn, below = graph.draw(((one.id, one.parent) for one in found.data), above)
    rows = await run_in_threadpool(_lines, state.store, found.data, drawn)
    return fragment(
        request,
        "history/rows.html",
        rows=rows,
        first=after is None,
        next=found.next,
        lanes=graph.written(below),
        width=max((row.width for row in drawn), default=0),
        dot=graph.DOT,
    )


@router.get(f"{HISTORY}/names")
@needs(Scope.READ)
async def history_names(request: Request, state: State) -> Response:
    """The names that versions have been given, in the order of the alphabet."""
    names = await run_in_threadpool(state.store.names.all)
    shown = sorted(names.items())[:NAMES_SHOWN]
    more = len(names) - len(shown)
    return fragment(request, "history/names.html", names=shown, more=more)


@router.get(f"{HISTORY}/audit")
@needs(Scope.ADMIN)
async def audit_page(request: Request) -> Response:
    """The audit log."""
    found = await Calls(request).get("/audit", Page[AuditEntry], limit=ROWS)
    return page(request, "history/audit.html", entries=found.data, next=found.next)


@router.get(f"{HISTORY}/audit/rows")
@needs(Scope.ADMIN)
async def audit_rows(
    request: Request, after: Annotated[str | None, Query(pattern=r"^[0-9]{1,15}$")] = None
) -> Response:
    """Older lines of the audit log."""
    found = await Calls(request).get("/audit", Page[AuditEntry], limit=ROWS, after=after)
    return fragment(
        request, "history/audit_rows.html", entries=found.data, next=found.next, first=False
    )


def _lines(store: Store, versions: Sequence[Snapshot], drawn: Sequence[graph.Row]) -> list[Line]:
    lines = []
    for i, (version, row) in enumerate(zip(versions, drawn, strict=True)):
        below = versions[i + 1].id if i + 1 < len(versions) else None
        manifest = None if version.damage else store.versions.read_to_show(version.id)
        lines.append(
            Line(
                version=version,
                drawn=row,
                facts=manifest.facts[:FACTS_NAMED] if manifest else (),
                hold=_hold(manifest),
                again_from=manifest.reapplied_from if manifest else None,
                branches=version.parent not in (None, below) and below is not None,
            )
        )
    return lines


def _hold(manifest: Manifest | None) -> int | None:
    """How many facts of its own batch a version says; None where that was not recorded."""
    if manifest is None or manifest.result is None:
        return None
    return sum(one.success for one in manifest.result.facts)
