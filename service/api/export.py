"""A version as one safetensors file, streamed from the store without torch."""

from __future__ import annotations

from collections.abc import Iterator

from service.schemas import Manifest
from service.store import MissingTensor, Store, safetensors_header
from service.store.tensors import byte_count


def export_header(store: Store, manifest: Manifest) -> bytes:
    """The file's first bytes: names, types, shapes, and where the tensors come from.

    Raises:
        MissingTensor: a tensor's file is gone.
    """
    for ref in manifest.tensors:
        if not store.has_tensor(ref):
            raise MissingTensor(f"tensor {ref.name} of {manifest.id} is missing")
    info = store.model_info()
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

    Every tensor is verified as it is read; a damaged one raises `CorruptTensor`, which cuts the
    answer short of its declared length, so no client takes it for whole.
    """
    yield header
    for ref in manifest.tensors:
        yield from _held_back(store.tensor_chunks(ref))


def _held_back(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The chunks one step late: the last one leaves only when all have been verified."""
    held: bytes | None = None
    for chunk in chunks:
        if held is not None:
            yield held
        held = chunk
    if held is not None:
        yield held
