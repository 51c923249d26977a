"""Jobs on the pages that follow them: their events, and cancelling them."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from service.api.console.calls import Calls, at
from service.api.console.rendering import CHANGED, fragment
from service.api.http.access import needs
from service.api.http.sessions import CONSOLE
from service.contracts.schemas import JobOut
from service.contracts.schemas.access import Scope

router = APIRouter()


@router.get(CONSOLE + "/jobs/{id}/events")
@needs(Scope.READ)
async def followed_job(id: str, request: Request) -> Response:
    """The events of a job, as the interface streams them."""
    return Calls(request).file(at("/jobs/{}/events", id))


@router.post(CONSOLE + "/jobs/{id}/cancel")
@needs(Scope.EDIT)
async def cancelled_job(id: str, request: Request) -> Response:
    """Ask a job to end; what to say about it."""
    job = await Calls(request).post(at("/jobs/{}/cancel", id), JobOut)
    return fragment(request, "parts/job_cancelled.html", headers=CHANGED, job=job)
