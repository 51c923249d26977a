"""Versions from the store: their tensors as stored, or rebuilt from base and factors.

Earlier releases summed all updates of a matrix at once, which gives lines of more than a block of
updates other last bits.  Where the bytes are not those of the manifest, such a sum is tried, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from jeep_core.models.delta import materialise, near_ties, summed, summed_at_once
from jeep_core.models.loading import LoadedModel, tensor_sha256
from service.contracts.schemas import Manifest, TensorRef
from service.store import CorruptTensor, MissingTensor, Store
from service.store.versions import Thin, Ties
from service.worker.versions import tensors
from service.worker.versions.sums import LineSums, Sum, matrix_of, sums_of


def load(base: LoadedModel, store: Store, manifest: Manifest) -> dict[str, torch.Tensor]:
    """Every tensor in which a version differs from base, verified; missing ones are rebuilt.

    Raises:
        CorruptTensor: bytes do not have the hash that the manifest names.
    """
    while True:
        missing = {ref.sha256 for ref in store.versions.missing(manifest)}
        there = [ref for ref in manifest.tensors if ref.sha256 not in missing]
        try:
            loaded = tensors.get_all(store, there)
            break
        except MissingTensor:
            continue  # dropped since it was checked
    gone = [ref for ref in manifest.tensors if ref.sha256 in missing]
    return loaded | rebuild(base, store, manifest, gone) if gone else loaded


def rebuild(
    base: LoadedModel, store: Store, manifest: Manifest, refs: Sequence[TensorRef]
) -> dict[str, torch.Tensor]:
    """Tensors of a version from base and the factors of its line, in chain order.

    Raises:
        CorruptTensor: a factor is damaged, or the rebuilt bytes have another hash.
    """
    sums, thin = (
        sums_of(base, store, manifest.id, rebuilding=True),
        store.versions.thin(manifest.id) or Thin(),
    )
    found = {}
    for ref in refs:
        sum_ = _found(store, sums, ref)
        matrix, transposed = matrix_of(base, ref.name)
        tensor = materialise(matrix, sum_.updates, transposed, sum_.start)
        _settle_ties(store, thin, ref, tensor)
        if tensor_sha256(tensor) != ref.sha256 and sums.is_long(ref.name):
            total = summed_at_once(matrix, sums.every_update(ref.name), transposed)
            tensor = total.to(matrix.dtype).contiguous()
            _settle_ties(store, thin, ref, tensor)
        found[ref.name] = _verified(manifest, ref, tensor)
    return found


def _settle_ties(store: Store, thin: Thin, ref: TensorRef, tensor: torch.Tensor) -> None:
    """Give the elements of a rebuilt tensor whose rounding is in doubt the values they had."""
    if ref.name in thin.ties:
        ties = thin.ties[ref.name]
        indices, values = tensors.get(store, ties.indices), tensors.get(store, ties.values)
        tensor.view(-1)[indices.to(tensor.device)] = values.to(tensor.device)


def matched(
    base: LoadedModel,
    store: Store,
    manifest: Manifest,
    between: Callable[[], None] = lambda: None,
) -> Thin:
    """Rebuild a version, check every hash, and store the data that its rebuilding needs.

    ``between`` is called before each tensor and may raise.

    Raises:
        CorruptTensor: as `rebuild`; nothing may be dropped then.
    """
    sums, ties = sums_of(base, store, manifest.id, rebuilding=True), {}
    for ref in manifest.tensors:
        between()
        sum_ = _found(store, sums, ref)
        matrix, transposed = matrix_of(base, ref.name)
        total = summed(matrix, sum_.updates, transposed, sum_.start)
        tensor = total.to(matrix.dtype).contiguous()
        if tensor_sha256(tensor) != ref.sha256 and sums.is_long(ref.name):
            total = summed_at_once(matrix, sums.every_update(ref.name), transposed)
            tensor = total.to(matrix.dtype).contiguous()
        tensor = _verified(manifest, ref, tensor)
        indices = near_ties(total, matrix.dtype)
        if len(indices):
            ties[ref.name] = Ties(
                indices=tensors.put(store, f"ties.indices.{ref.name}", indices),
                values=tensors.put(store, f"ties.values.{ref.name}", tensor.view(-1)[indices]),
            )
    return Thin(ties=ties)


def restore(store: Store, manifest: Manifest, loaded: Mapping[str, torch.Tensor]) -> None:
    """Store the missing tensors of a version from those in memory.

    Raises:
        OSError: there is no room.
    """
    for ref in store.versions.missing(manifest):
        tensors.put(store, ref.name, loaded[ref.name])


def _verified(manifest: Manifest, ref: TensorRef, tensor: torch.Tensor) -> torch.Tensor:
    if tensor_sha256(tensor) != ref.sha256:
        raise CorruptTensor(f"{manifest.id}: {ref.name} rebuilt from its factors has another hash")
    return tensor


def _found(store: Store, sums: LineSums, ref: TensorRef) -> Sum:
    """The sum that gives one matrix."""
    found = sums.of(ref.name)
    if found is None:
        path = store.tensors.path(ref.sha256)
        raise MissingTensor(f"tensor {ref.name} is missing and has no factors: {path}")
    return found
