"""A version as one safetensors file, streamed from the store without torch."""

from __future__ import annotations

from collections.abc import Iterator

from fastapi.concurrency import run_in_threadpool

from jeep_core.exports.bases import base_name
from service.api.exports.format import Export, ExportFormat
from service.api.exports.stored import make_whole
from service.api.state import ApiState
from service.contracts.schemas import Manifest
from service.store import MissingTensor, Store, safetensors_header
from service.store.tensors import byte_count


async def _open(state: ApiState, version: str) -> Export:
    await make_whole(state, version)
    manifest = state.store.versions.read(version)
    header = await run_in_threadpool(_header, state.store, manifest)
    size = len(header) + sum(map(byte_count, manifest.tensors))
    return Export(manifest.id, _chunks(state.store, manifest, header), size)


def _header(store: Store, manifest: Manifest) -> bytes:
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
        "base_model": base_name(info.model).text if info else "",
    }
    return safetensors_header(manifest.tensors, metadata)


def _chunks(store: Store, manifest: Manifest, header: bytes) -> Iterator[bytes]:
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


FORMAT = ExportFormat("safetensors", ".safetensors", _open)
