"""Chains of versions with real factors on a tiny model, without editing anything."""

from __future__ import annotations

import torch

from jeep_core.models.delta import Update, WeightDelta
from jeep_core.models.families import is_transposed
from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView
from service.contracts.jobs import now
from service.contracts.schemas import Manifest
from service.store import Store
from service.worker.versions import tensors

LAYERS = (0, 1)


def add_chain(base: LoadedModel, store: Store, count: int) -> list[str]:
    """Bind a store to the model and commit ``count`` versions, one on top of the other."""
    store.bind_model(base.model_hash)
    store.create_base(base.weights_sha256)
    return [add_edit(base, store) for _ in range(count)]


def add_edit(base: LoadedModel, store: Store, commit: bool = True, **fields: object) -> str:
    """A version on top of head: low-rank updates of two matrices, every third a dense one."""
    parent = store.head.read().version
    line = store.versions.lineage(parent)
    view, number = ModelView(base), len(line)
    for manifest in line:
        view.apply(_delta_of(store, manifest))
    delta = _delta(base, number)
    view.apply(delta)
    version = store.versions.new_id()
    given = {
        "id": version,
        "parent": parent,
        "tensors": [tensors.put(store, n, t) for n, t in view.replaced.items()],
        "artifacts": [tensors.put(store, n, t) for n, t in delta.tensors().items()],
        "weights_sha256": view.weights_sha256(),
        "created_at": now(),
    }
    store.versions.write(Manifest.model_validate(given | fields))
    if commit:
        store.head.move(version, expected=parent, job_id=None, fence=1, who="test", why="edit")
    return version


def _delta(base: LoadedModel, number: int) -> WeightDelta:
    random = torch.Generator().manual_seed(number)
    rank = 40 if number % 3 == 0 else 2
    updates = {}
    for layer in LAYERS:
        name = base.family.weight_name(layer)
        rows, columns = base.model.get_parameter(name).shape
        if is_transposed(base.model.get_submodule(name.rpartition(".")[0])):
            rows, columns = columns, rows
        left = torch.randn(rows, rank, generator=random)
        right = torch.randn(columns, rank, generator=random)
        updates[name] = Update.of(left, 0.01 * right)
    return WeightDelta(updates)


def _delta_of(store: Store, manifest: Manifest) -> WeightDelta:
    found = {ref.name: tensors.get(store, ref) for ref in manifest.artifacts}
    return WeightDelta.from_tensors(found)
