"""One version: its facts, what was written where, how it was made, who made it, its exports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from service.api.console.calls import Calls, at
from service.api.console.pages.history.listing import HISTORY
from service.api.console.rendering import fragment, page
from service.api.http.access import needs
from service.api.http.paging import Page
from service.api.resources.exports import ExportSummary
from service.api.state import State
from service.contracts.jobs import JobKind
from service.contracts.schemas import EditPayload, FactOutcome, FactRecord, Manifest, Snapshot
from service.contracts.schemas.access import AuditEntry, Scope
from service.contracts.schemas.effects.guards import GuardOutcome, outcomes
from service.store import Store, StoreError
from service.store.index import listing

router = APIRouter()

VERSION = f"{HISTORY}/versions/{{ref}}"
FACTS_SHOWN = 50
AUDIT_LOOKED_AT = 1000
"""The newest lines of the audit log, among which those about one version are looked for."""
EXPORTS_LOOKED_AT = 200
PAGE = 200


@dataclass(frozen=True)
class Fact:
    """A fact of a batch with its outcome, where that was recorded.

    ``index``: its place in the request.  ``mended``: an earlier batch had taught it, and this one
    had broken it.
    """

    index: int
    said: FactRecord
    outcome: FactOutcome | None
    mended: bool


@router.get(VERSION)
@needs(Scope.READ)
async def version_page(ref: str, request: Request, state: State) -> Response:
    """The page."""
    version = await Calls(request).get(at("/snapshots/{}", ref), Snapshot)
    manifest = await run_in_threadpool(state.store.versions.read, version.id)
    return page(
        request,
        "history/version.html",
        manifest=manifest,
        guards=await run_in_threadpool(_guards, state.store, manifest),
        **await run_in_threadpool(_place, state.store, version),
        **_facts(manifest, 0),
    )


@router.get(f"{VERSION}/place")
@needs(Scope.READ)
async def version_place(ref: str, request: Request, state: State) -> Response:
    """The upper part, which changes with head and names."""
    version = await Calls(request).get(at("/snapshots/{}", ref), Snapshot)
    place = await run_in_threadpool(_place, state.store, version)
    return fragment(request, "history/place.html", **place)


@router.get(f"{VERSION}/facts")
@needs(Scope.READ)
async def version_facts(
    ref: str, request: Request, state: State, start: Annotated[int, Query(ge=0, le=10**9)] = 0
) -> Response:
    """Further facts of the batch."""
    version = await Calls(request).get(at("/snapshots/{}", ref), Snapshot)
    manifest = await run_in_threadpool(state.store.versions.read, version.id)
    return fragment(request, "history/facts.html", manifest=manifest, **_facts(manifest, start))


@router.get(f"{VERSION}/audit")
@needs(Scope.ADMIN)
async def version_audit(ref: str, request: Request) -> Response:
    """The newest lines of the audit log that are about this version or the job that made it."""
    calls = Calls(request)
    version = await calls.get(at("/snapshots/{}", ref), Snapshot)
    found: list[AuditEntry] = []
    after, more = None, True
    for _ in range(AUDIT_LOOKED_AT // PAGE):
        entries = await calls.get("/audit", Page[AuditEntry], limit=PAGE, after=after)
        found += [one for one in entries.data if _is_about(one, version)]
        after, more = entries.next, entries.has_more
        if not more:
            break
    looked_at = AUDIT_LOOKED_AT if more else None
    return fragment(
        request, "history/version_audit.html", entries=found, next=None, looked_at=looked_at
    )


@router.get(f"{VERSION}/exports")
@needs(Scope.READ)
async def version_exports(ref: str, request: Request) -> Response:
    """The exports of this version."""
    calls = Calls(request)
    version = await calls.get(at("/snapshots/{}", ref), Snapshot)
    listed = await calls.get("/exports", Page[ExportSummary], limit=EXPORTS_LOOKED_AT)
    exports = [one for one in listed.data if one.version == version.id]
    return fragment(request, "history/exports.html", exports=exports, version=version)


def _is_about(entry: AuditEntry, version: Snapshot) -> bool:
    made_by = entry.job_id is not None and entry.job_id == version.job_id
    return made_by or entry.version == version.id


def _place(store: Store, version: Snapshot) -> dict[str, Any]:
    """Where a version stands: what it is built on and what on it, and what may be done with it.

    ``applied``: its batch is part of head's line, so that it can be taken out.
    """
    head = store.head.read().version
    batch = version.edit_id
    # with a damaged record in head's line nothing can be taken out
    there = batch is not None and listing.is_whole(store, head)
    return {
        "version": version,
        "head": head,
        "children": listing.children(store, version.id),
        "applied": there and listing.applied_in(store, str(batch), head) is not None,
    }


def _facts(manifest: Manifest, start: int) -> dict[str, Any]:
    """Some facts of a batch from number ``start`` on, and where the next ones begin."""
    mended = {one.index for one in manifest.mended}
    outcomes: Sequence[FactOutcome | None] = manifest.result.facts if manifest.result else ()
    shown = []
    end = min(start + FACTS_SHOWN, len(manifest.facts))
    for position in range(start, end):
        outcome = outcomes[position] if outcomes else None
        index = outcome.index if outcome else position
        shown.append(Fact(index, manifest.facts[position], outcome, index in mended))
    return {"facts": shown, "next": end if end < len(manifest.facts) else None}


def _guards(store: Store, manifest: Manifest) -> list[GuardOutcome]:
    """The guards of the edit that made a version; none where its job is no longer known."""
    if manifest.job_id is None:
        return []
    try:
        job = store.journal.read(manifest.job_id)
    except StoreError:
        return []
    if job.kind is not JobKind.EDIT:
        return []  # a revert measures none
    limits = EditPayload.model_validate(job.payload).guards
    figures = manifest.result.guards if manifest.result else None
    return outcomes(limits, figures)
