"""Two versions side by side: facts, matrices, and drift, where it was measured or is to be."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import RedirectResponse

from service.api.console.calls import Calls, at
from service.api.console.forms import read_form
from service.api.console.pages.history.differing import difference
from service.api.console.pages.history.listing import HISTORY
from service.api.console.rendering import fragment, page
from service.api.http.access import caller_of, needs
from service.api.http.paging import Page
from service.api.resources.drifts import DRIFTS, DriftSummary
from service.api.state import State
from service.contracts.jobs import TERMINAL, JobStatus
from service.contracts.schemas import JobOut
from service.contracts.schemas.access import Scope
from service.contracts.schemas.effects.drift import Drift
from service.store import UnknownVersion

router = APIRouter()

COMPARE = f"{HISTORY}/compare"
DRIFT = f"{HISTORY}/drift"
CHANGES_SHOWN = 100
DRIFTS_LOOKED_AT = 200
"""The newest comparisons, among which one of the same two versions is looked for."""
WORST_SHOWN = 5
Text = Annotated[str, Query(max_length=200)]


@router.get(COMPARE)
@needs(Scope.READ)
async def compare_page(
    request: Request,
    state: State,
    a: Text = "base",
    b: Text = "head",
    start: Annotated[int, Query(ge=0, le=10**9)] = 0,
) -> Response:
    """The page.  What no version is called is said beside its field."""
    ids, wrong = {}, {}
    for name, ref in (("a", a), ("b", b)):
        try:
            ids[name] = await run_in_threadpool(state.store.names.resolve, ref.strip())
        except UnknownVersion as error:
            wrong[name] = str(error)
    found = None
    if not wrong:
        found = await run_in_threadpool(difference, state.store, ids["a"], ids["b"])
    status = 404 if wrong else 200
    return page(
        request,
        "history/compare.html",
        status,
        refs={"a": a, "b": b},
        wrong=wrong,
        found=found,
        start=start,
        most=CHANGES_SHOWN,
    )


@router.get(f"{HISTORY}/go")
@needs(Scope.READ)
async def open_version(ref: Text = "") -> Response:
    """The page of the version that was written into a field."""
    target = at(f"{HISTORY}/versions/{{}}", ref.strip()) if ref.strip() else HISTORY
    return RedirectResponse(target, 303)


@router.get(DRIFT)
@needs(Scope.READ)
async def drift_part(request: Request, a: Text, b: Text) -> Response:
    """The drift from ``a`` to ``b``: its figures, how far its job is, or how it is measured."""
    return await _shown(request, Calls(request), a, b)


@router.post(DRIFT)
@needs(DRIFTS.scope)
async def measure_drift(request: Request) -> Response:
    """Queue the comparison of two versions."""
    form = await read_form(request)
    a, b = form.get("a"), form.get("b")
    calls = Calls(request)
    job = await calls.post("/drifts", JobOut, {"version": b, "against": a})
    if not caller_of(request).may(Scope.READ):
        return fragment(request, "history/drift.html", accepted=job.id)
    return await _shown(request, calls, a, b, job.resource_id)


async def _shown(
    request: Request, calls: Calls, a: str, b: str, drift_id: str | None = None
) -> Response:
    if drift_id is None:
        query = {"limit": DRIFTS_LOOKED_AT}
        listed = (await calls.get("/drifts", Page[DriftSummary], **query)).data
        drift_id = _newest(listed, a, b)
    drift = await calls.get(at("/drifts/{}", drift_id), Drift) if drift_id else None
    values: dict[str, Any] = {"a": a, "b": b, "drift": drift, "worst": WORST_SHOWN}
    values["accepted"] = None
    values["waits"] = drift is not None and drift.status not in TERMINAL
    return fragment(request, "history/drift.html", **values)


def _newest(listed: list[DriftSummary], a: str, b: str) -> str | None:
    """The comparison to show: one that has not failed, if there is one."""
    same = [one for one in listed if (one.against, one.version) == (a, b)]
    lost = (JobStatus.FAILED, JobStatus.CANCELLED)
    best = [one for one in same if one.status not in lost] or same
    return best[0].id if best else None
