"""``/store``: the store as followers read it that have no share of its disk.

Head and the published model with what names them, the manifests of versions, and their tensors.
"""

from __future__ import annotations

import asyncio
import time
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi import Path as PathParameter
from fastapi.concurrency import run_in_threadpool

from service.api.exports.stored import make_whole
from service.api.http.access import needs
from service.api.http.problems import documented, not_found
from service.api.http.ranges import FILE, data_in_parts, unchanged
from service.api.state import ApiState, State
from service.contracts.schemas import Manifest, TensorRef
from service.contracts.schemas.access import Scope
from service.contracts.schemas.worker import (
    LONGEST_LINE,
    LONGEST_WAIT_S,
    StoreState,
    VersionLine,
)
from service.store import (
    CorruptFile,
    CorruptTensor,
    MissingTensor,
    Store,
    StoreReplaced,
    UnknownVersion,
)
from service.store.files import Stamp, file_stamp, read
from service.store.store import FORMAT, StoreIdentity, StoreModel
from service.store.tensors import byte_count

router = APIRouter(tags=["followers"])
LOOK_S = 0.1
"""How often the store is looked at while a follower waits for a change."""
Id = Annotated[
    str, PathParameter(pattern=r"^v(0|[1-9]\d{0,17})$", description="A version's id (`v3`).")
]
Hash = Annotated[
    str, PathParameter(pattern=r"^[0-9a-f]{64}$", description="SHA-256 that its manifest names.")
]


@router.get(
    "/store",
    response_model=StoreState,
    responses={
        304: {"description": "The state still has the tag in `If-None-Match`."},
        **documented(422),
    },
)
@needs(Scope.FOLLOW)
async def show_store(
    request: Request,
    state: State,
    wait: Annotated[
        float,
        Query(ge=0, le=LONGEST_WAIT_S, description="Seconds to wait for a state without that tag."),
    ] = 0.0,
) -> Response:
    """Which store this is, the model that its writer has published, and head.

    The answer's `ETag` changes with its content: with `If-None-Match` and `wait` a follower hears
    of a new head as soon as there is one.
    """
    end, seen = time.monotonic() + wait, None
    while True:
        stamps = await run_in_threadpool(_stamps, state.store.root)
        if stamps != seen:
            seen = stamps
            body = await run_in_threadpool(_described, state.store)
            headers = {
                "ETag": f'"{sha256(body).hexdigest()}"',
                "Cache-Control": "private, no-cache",
            }
            if not unchanged(request, headers["ETag"]):
                return Response(body, headers=headers, media_type="application/json")
        if time.monotonic() >= end or await request.is_disconnected():
            return Response(status_code=304, headers=headers)
        await asyncio.sleep(LOOK_S)


@router.get("/store/versions/{id}", responses=documented(404, 422))
@needs(Scope.FOLLOW)
def show_version_line(
    id: Id,
    state: State,
    count: Annotated[
        int, Query(ge=1, le=LONGEST_LINE, description="Versions at most, this one included.")
    ] = 1,
) -> VersionLine:
    """The manifest of a version, and those of the versions that it is built on.

    A manifest names every file of its version by its hash.
    """
    found: list[Manifest] = []
    try:
        found.extend(islice(state.store.versions.back(id), count))
    except CorruptFile:
        if not found:  # else whoever asks for the damaged one hears of it
            raise
    return VersionLine(data=found)


_TENSOR_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"description": "The bytes.", "content": {FILE: {"schema": {"type": "string"}}}},
    206: {
        "description": "The part that `Range` asks for.",
        "content": {FILE: {"schema": {"type": "string"}}},
    },
    304: {"description": "The hash in `If-None-Match` is that of the bytes."},
    **documented(404, 416, 422, 503, 504, 507),
}


@router.get(
    "/store/versions/{id}/tensors/{sha256}", response_class=Response, responses=_TENSOR_ANSWERS
)
@needs(Scope.FOLLOW)
async def version_tensor(id: Id, sha256: Hash, request: Request, state: State) -> Response:
    """The raw bytes of a tensor of a version, whole or in parts (`Range`, `If-Range`).

    Their SHA-256 is the `ETag`.  An old version whose tensors were dropped is rebuilt by the
    writer first (503 without one), and keeps them for an hour after each of these requests.
    """
    manifest = await run_in_threadpool(state.store.versions.read, id)
    refs = (*manifest.tensors, *manifest.artifacts)
    ref = next((one for one in refs if one.sha256 == sha256), None)
    if ref is None:
        raise not_found("file", sha256)
    if ref in manifest.tensors:
        await make_whole(state, id)
    return await run_in_threadpool(_tensor, state, request, ref)


def _stamps(root: Path) -> list[Stamp]:
    """By which it is seen that a state may be another one."""
    names = ("id.json", "model.json", "model/info.json", "head.json")
    return [file_stamp(root / name) for name in names]


def _described(store: Store) -> bytes:
    """The state as JSON, from the files as they are now.

    Raises:
        CorruptFile: one of them is damaged.
        StoreReplaced: they were moved away.
    """
    # not as it was when the store was opened: another one may have been restored into the folder
    identity = read(store.root / "id.json", StoreIdentity)
    if identity is None:
        raise StoreReplaced(f"{store.root} holds no store now")
    bound = read(store.root / "model.json", StoreModel)
    try:
        head = store.head.read()
    except UnknownVersion:
        head = None
    found = StoreState(
        id=identity.id,
        format=FORMAT,
        model_hash=None if bound is None else bound.model_hash,
        info=store.base.info(),
        head=head,
    )
    return found.model_dump_json().encode()


def _tensor(state: ApiState, request: Request, ref: TensorRef) -> Response:
    """The answer for one tensor.

    Raises:
        ApiProblem: as `data_in_parts`.
        CorruptTensor, MissingTensor: its file has another size, or is not there.
    """
    path, size = state.store.tensors.path(ref.sha256), byte_count(ref)
    try:
        whole = path.stat().st_size
        if not state.store.tensors.has(ref):
            raise CorruptTensor(f"tensor {ref.name} is damaged, it has another size: {path}")
        return data_in_parts(request, path, slice(whole - size, whole), ref.sha256)
    except FileNotFoundError:
        raise MissingTensor(f"tensor {ref.name} is missing: {path}") from None
