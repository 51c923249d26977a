"""``/snapshots``: the versions of the model, their names, differences and export."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from service.api.exports.formats import FORMATS, format_of
from service.api.http.access import needs
from service.api.http.auditing import concerns
from service.api.http.bodies import json_request_body, read_model
from service.api.http.paging import AFTER, Limit, Page, take
from service.api.http.problems import documented, field_error, invalid
from service.api.state import State
from service.contracts.schemas import NameSnapshot, Snapshot, SnapshotDiff
from service.contracts.schemas.access import Scope
from service.store import BadName, Store, UnknownVersion
from service.store.index import listing

router = APIRouter(tags=["snapshots"])

Ref = Annotated[str, Path(description="`head`, `base`, a version id (`v3`) or a snapshot name.")]


@router.get("/snapshots", responses=documented(422))
@needs(Scope.READ)
def list_snapshots(
    state: State,
    limit: Limit = 50,
    after: Annotated[str | None, Query(pattern=r"^v(0|[1-9]\d{0,17})$", description=AFTER)] = None,
) -> Page[Snapshot]:
    """All versions, newest first.

    One whose records cannot be read has the state `damaged`; `jeep store verify` says what to do.
    """
    before = None if after is None else int(after[1:])
    data, has_more = take(listing.snapshots(state.store, before, limit + 1), limit)
    return Page(data=data, has_more=has_more, next=data[-1].id if has_more else None)


@router.post(
    "/snapshots",
    status_code=201,
    responses=documented(400, 409, 413, 415, 422),
    openapi_extra=json_request_body(NameSnapshot),
)
@needs(Scope.EDIT)
async def name_snapshot(request: Request, response: Response, state: State) -> Snapshot:
    """Give a version a name.  A name is given once; giving it again the same way is fine."""
    body = await read_model(request, NameSnapshot)
    named = await run_in_threadpool(_name, state.store, body)
    concerns(request, named.id)
    response.headers["Location"] = f"/snapshots/{body.name}"
    return named


@router.get("/snapshots/{id}", responses=documented(404))
@needs(Scope.READ)
def show_snapshot(id: Ref, state: State) -> Snapshot:
    """One version."""
    return listing.snapshot(state.store, state.store.names.resolve(id))


@router.get("/snapshots/{a}/diff/{b}", responses=documented(404))
@needs(Scope.READ)
def diff_snapshots(a: Ref, b: Ref, state: State) -> SnapshotDiff:
    """The differences between `a` and `b`: edits, facts, tensors."""
    return diff(state.store, state.store.names.resolve(a), state.store.names.resolve(b))


@router.get(
    "/snapshots/{id}/export",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "Every tensor in which the version differs from base.",
            "content": {one.media_type: {"schema": {"type": "string"}} for one in FORMATS.values()},
        },
        **documented(404, 422, 503, 504, 507),
    },
)
@needs(Scope.READ)
async def export_snapshot(
    id: Ref,
    state: State,
    format: Annotated[str, Query(json_schema_extra={"enum": [*FORMATS]})] = "safetensors",
) -> StreamingResponse:
    """A file with every tensor in which the version differs from base.

    The metadata of a safetensors file name the version, the hash of all weights and the base
    model's hash.  An old version whose tensors were dropped is rebuilt by the worker first (503
    without one).
    """
    chosen = format_of(format)
    version = await run_in_threadpool(state.store.names.resolve, id)
    export = await chosen.open(state, version)
    headers = {
        "Content-Disposition": f'attachment; filename="{export.version}{chosen.suffix}"',
        "X-Model-Version": export.version,
    }
    if export.size is not None:
        headers["Content-Length"] = str(export.size)
    return StreamingResponse(export.chunks, media_type=chosen.media_type, headers=headers)


def diff(store: Store, a: str, b: str) -> SnapshotDiff:
    """The difference of two versions by their ids, seen from ``a``."""
    fork = listing.fork(store, a, b)
    removed, added = fork.own_a, fork.own_b
    hashes_a = {ref.name: ref.sha256 for ref in store.versions.read(a).tensors}
    hashes_b = {ref.name: ref.sha256 for ref in store.versions.read(b).tensors}
    names = sorted(hashes_a.keys() | hashes_b.keys())
    gone, come = {v.edit_id for v in removed}, {v.edit_id for v in added}
    removed = [v for v in removed if v.edit_id not in come]  # a revert applies batches again
    added = [v for v in added if v.edit_id not in gone]
    return SnapshotDiff(
        a=a,
        b=b,
        common_ancestor=fork.ancestor,
        edits_removed=[v.edit_id for v in removed if v.edit_id],
        edits_added=[v.edit_id for v in added if v.edit_id],
        facts_removed=[fact for v in removed for fact in v.facts],
        facts_added=[fact for v in added for fact in v.facts],
        tensors_changed=[name for name in names if hashes_a.get(name) != hashes_b.get(name)],
    )


def _name(store: Store, body: NameSnapshot) -> Snapshot:
    try:
        version = store.names.resolve(body.version)
    except UnknownVersion as error:
        raise invalid([field_error("/version", "unknown_version", str(error))]) from None
    try:
        store.names.give(body.name, version)
    except BadName as error:
        raise invalid([field_error("/name", "reserved_name", str(error))]) from None
    return listing.snapshot(store, version)
