"""Versions from the store: their tensors as stored, or rebuilt from base and factors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch

from jeep_core.models.delta import Update, materialise, near_ties, summed
from jeep_core.models.families import is_transposed
from jeep_core.models.loading import LoadedModel, tensor_sha256
from service.contracts.schemas import Manifest, TensorRef
from service.store import CorruptTensor, MissingTensor, Store
from service.store.versions import Thin, Ties
from service.worker.versions import tensors


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
    line, thin = store.versions.lineage(manifest.id), store.versions.thin(manifest.id) or Thin()
    found = {}
    for ref in refs:
        updates = _updates(store, line, ref)
        matrix, transposed = _base_matrix(base, ref.name)
        tensor = materialise(matrix, updates, transposed)
        if ref.name in thin.ties:
            ties = thin.ties[ref.name]
            indices, values = tensors.get(store, ties.indices), tensors.get(store, ties.values)
            tensor.view(-1)[indices.to(tensor.device)] = values.to(tensor.device)
        found[ref.name] = _verified(manifest, ref, tensor)
    return found


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
    line, ties = store.versions.lineage(manifest.id), {}
    for ref in manifest.tensors:
        between()
        updates = _updates(store, line, ref)
        matrix, transposed = _base_matrix(base, ref.name)
        total = summed(matrix, updates, transposed)
        tensor = _verified(manifest, ref, total.to(matrix.dtype).contiguous())
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


def _updates(store: Store, line: Sequence[Manifest], ref: TensorRef) -> list[Update]:
    """The updates applied to one matrix, oldest first."""
    found = [Update.from_parts(parts) for parts in _parts(store, line, ref.name) if parts]
    if not found:
        path = store.tensors.path(ref.sha256)
        raise MissingTensor(f"tensor {ref.name} is missing and has no factors: {path}")
    return found


def _parts(store: Store, line: Sequence[Manifest], name: str) -> Iterator[dict[str, torch.Tensor]]:
    for manifest in line:
        split = [(*ref.name.partition("."), ref) for ref in manifest.artifacts]
        mine = [
            (part, ref) for part, _, rest, ref in split if rest == name and part in ("u", "v", "d")
        ]
        yield {part: tensors.get(store, ref) for part, ref in mine}


def _base_matrix(base: LoadedModel, name: str) -> tuple[torch.Tensor, bool]:
    """A parameter of the base model, and whether it is stored as (in, out)."""
    owner = base.model.get_submodule(name.rpartition(".")[0])
    return base.model.get_parameter(name), is_transposed(owner)
