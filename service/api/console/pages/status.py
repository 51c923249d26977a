"""The line at the top of every page: model, head, open jobs, or how much is missing."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool

from service.api.console.calls import Calls
from service.api.console.pages.readiness import readiness
from service.api.console.rendering import fragment
from service.api.http.access import needs
from service.api.http.sessions import CONSOLE
from service.api.state import State
from service.contracts.schemas.access import Scope

router = APIRouter()


@router.get(f"{CONSOLE}/status")
@needs(Scope.READ)
async def console_status(request: Request, state: State) -> Response:
    """The line as a part of a page."""
    ready, missing = await readiness(Calls(request))
    jobs = await run_in_threadpool(state.store.journal.count_open)
    names = " and ".join(one["part"] for one in missing)
    return fragment(request, "parts/status.html", ready=ready, missing=names, open=jobs)
