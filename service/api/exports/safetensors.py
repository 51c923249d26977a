"""A version as one safetensors file, streamed from the store without torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import aclosing

from fastapi.concurrency import run_in_threadpool

from service.api.http.worker_calls import replies, worker_request
from service.api.state import ApiState
from service.contracts.schemas import Manifest
from service.store import MissingTensor, Store, safetensors_header
from service.store.tensors import byte_count


def is_there(store: Store, version: str) -> bool:
    """Whether a version's tensors are stored, and stay for now; False if they were dropped.

    Missing tensors of a version that is not thin are damage and do not lead to False.
    """
    return store.versions.want(version) or store.versions.thin(version) is None


async def rebuilt(state: ApiState, version: str) -> None:
    """Have the worker store the tensors of a version again.

    Raises:
        ApiProblem: 503 without a worker, 504 if it takes too long, 507 if the disk is full.
        StoreFull: the store may not grow.
    """
    await run_in_threadpool(state.room.check)
    await state.require_worker()
    async with aclosing(replies(state, worker_request(state, "restore", [version], {}))) as said:
        async for _ in said:
            continue


def export_header(store: Store, manifest: Manifest) -> bytes:
    """The file's first bytes: names, types, shapes, and where the tensors come from.

    Raises:
        MissingTensor: a tensor's file is gone.
    """
    for ref in manifest.tensors:
        if not store.tensors.has(ref):
            raise MissingTensor(f"tensor {ref.name} of {manifest.id} is missing")
    info = store.base.info()
    metadata = {
        "format": "pt",
        "version": manifest.id,
        "weights_sha256": manifest.weights_sha256,
        "base_model_hash": info.model_hash if info else "",
        "base_model": info.model if info else "",
    }
    return safetensors_header(manifest.tensors, metadata)


def export_size(manifest: Manifest, header: bytes) -> int:
    """Bytes of the whole file."""
    return len(header) + sum(map(byte_count, manifest.tensors))


def export_chunks(store: Store, manifest: Manifest, header: bytes) -> Iterator[bytes]:
    """The file piece by piece.

    Every tensor is verified as it is read; a damaged one raises `CorruptTensor`, which ends the
    answer before its declared length, so no client takes it for complete.
    """
    yield header
    for ref in manifest.tensors:
        yield from _held_back(store.tensors.chunks(ref))


def _held_back(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The chunks one step late: the last one leaves only when all have been verified."""
    held: bytes | None = None
    for chunk in chunks:
        if held is not None:
            yield held
        held = chunk
    if held is not None:
        yield held
