"""``/audit``: who did what to which version."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.concurrency import run_in_threadpool

from service.api.http.access import needs
from service.api.http.paging import AFTER, Limit, Page, take
from service.api.http.problems import documented
from service.api.state import State
from service.contracts.schemas.access import AuditEntry, Scope
from service.store import Store, StoreError

router = APIRouter(tags=["audit"])


@router.get("/audit", responses=documented(422))
@needs(Scope.ADMIN)
async def list_audit(
    state: State,
    limit: Limit = 50,
    after: Annotated[str | None, Query(pattern=r"^[0-9]{1,15}$", description=AFTER)] = None,
) -> Page[AuditEntry]:
    """Calls that changed something or were refused, newest first."""
    return await run_in_threadpool(_page, state.store, limit, after)


def _page(store: Store, limit: int, after: str | None) -> Page[AuditEntry]:
    entries = store.audit.entries(None if after is None else int(after))
    taken, has_more = take(entries, limit)
    data = [_with_version(store, entry) for _, entry in taken]
    return Page(data=data, has_more=has_more, next=str(taken[-1][0]) if has_more else None)


def _with_version(store: Store, entry: AuditEntry) -> AuditEntry:
    """Return the entry with the version that its job has written so far, if any."""
    if entry.job_id is None or entry.version is not None:
        return entry
    try:
        result = store.journal.read(entry.job_id).result or {}
    except StoreError:
        return entry
    return entry.model_copy(update={"version": result.get("version")})
