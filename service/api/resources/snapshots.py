"""``/snapshots``: the versions of the model, their names, differences and export."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Annotated, Literal

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
from service.contracts.schemas import Manifest, NameSnapshot, Snapshot, SnapshotDiff
from service.contracts.schemas.access import Scope
from service.store import BadName, Store, UnknownVersion

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
    versions = {version.id: version for version in state.store.versions.all()}
    known: dict[str, Manifest | str] = {**state.store.versions.damaged(), **versions}
    ids = sorted(known, key=_number, reverse=True)
    if after is not None:
        ids = [version for version in ids if _number(version) < _number(after)]
    taken, has_more = take(ids, limit)
    data = snapshots_of(state.store, {version: known[version] for version in taken})
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
    return snapshot(state.store, state.store.names.resolve(id))


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


def snapshots_of(store: Store, versions: Mapping[str, Manifest | str]) -> list[Snapshot]:
    """Versions as the api shows them, from their manifests or the damage found, by id."""
    names: dict[str, list[str]] = defaultdict(list)
    for name, version in sorted(store.names.all().items()):
        names[version].append(name)
    head = store.head.read().version if versions else ""
    committed = store.head.committed() if versions else set()
    return [
        _damaged(version, names[version], version == head, manifest)
        if isinstance(manifest, str)
        else Snapshot(
            id=manifest.id,
            names=names[version],
            is_head=manifest.id == head,
            state=_state(manifest, head, committed),
            parent=manifest.parent,
            job_id=manifest.job_id,
            edit_id=manifest.edit_id,
            editor=manifest.editor,
            n_facts=len(manifest.facts),
            tensors=manifest.tensors,
            weights_sha256=manifest.weights_sha256,
            created_at=manifest.created_at,
        )
        for version, manifest in versions.items()
    ]


def _damaged(version: str, names: list[str], is_head: bool, what: str) -> Snapshot:
    return Snapshot(
        id=version,
        names=names,
        is_head=is_head,
        state="damaged",
        parent=None,
        job_id=None,
        edit_id=None,
        editor=None,
        n_facts=0,
        tensors=[],
        weights_sha256=None,
        created_at=None,
        damage=what,
    )


def _number(version: str) -> int:
    return int(version[1:])


def snapshot(store: Store, version: str) -> Snapshot:
    """One version by its id."""
    return snapshots_of(store, {version: store.versions.read(version)})[0]


def diff(store: Store, a: str, b: str) -> SnapshotDiff:
    """The difference of two versions by their ids, seen from ``a``."""
    line_a, line_b = store.versions.lineage(a), store.versions.lineage(b)
    shared = sum(1 for x, y in zip(line_a, line_b, strict=False) if x.id == y.id)
    removed, added = line_a[shared:], line_b[shared:]
    hashes_a = {ref.name: ref.sha256 for ref in line_a[-1].tensors}
    hashes_b = {ref.name: ref.sha256 for ref in line_b[-1].tensors}
    names = sorted(hashes_a.keys() | hashes_b.keys())
    gone, come = {v.edit_id for v in removed}, {v.edit_id for v in added}
    removed = [v for v in removed if v.edit_id not in come]  # a revert applies batches again
    added = [v for v in added if v.edit_id not in gone]
    return SnapshotDiff(
        a=a,
        b=b,
        common_ancestor=line_a[shared - 1].id,
        edits_removed=[v.edit_id for v in removed if v.edit_id],
        edits_added=[v.edit_id for v in added if v.edit_id],
        facts_removed=[fact for v in removed for fact in v.facts],
        facts_added=[fact for v in added for fact in v.facts],
        tensors_changed=[name for name in names if hashes_a.get(name) != hashes_b.get(name)],
    )


def _state(
    manifest: Manifest, head: str, committed: set[str]
) -> Literal["head", "committed", "staged", "unused"]:
    if manifest.id == head:
        return "head"
    if manifest.id in committed:
        return "committed"
    return "staged" if manifest.staged else "unused"


def _name(store: Store, body: NameSnapshot) -> Snapshot:
    try:
        version = store.names.resolve(body.version)
    except UnknownVersion as error:
        raise invalid([field_error("/version", "unknown_version", str(error))]) from None
    try:
        store.names.give(body.name, version)
    except BadName as error:
        raise invalid([field_error("/name", "reserved_name", str(error))]) from None
    return snapshot(store, version)
