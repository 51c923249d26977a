"""The tensors of an edit on their way to the store, while its version is still measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from jeep_core.editing import EditResult
from jeep_core.models.loading import LoadedModel, combined_sha256
from jeep_core.spec.finite import check_record
from service.contracts.schemas import TensorRef
from service.store import Store
from service.worker.editing.records import of_computation
from service.worker.versions import tensors
from service.worker.versions.earlier_edits import STATE

RECORD = "the edit's result"
"""Name of what an edit leaves beside its tensors, for messages."""


@dataclass(frozen=True)
class Stored:
    """References for a version's manifest: to its matrices, and to keys, factors and states."""

    tensors: list[TensorRef]
    artifacts: list[TensorRef]

    def weights_sha256(self, base: LoadedModel) -> str:
        """As the view's, whose matrices need not be read again: a reference has their hash."""
        return combined_sha256({**base.tensor_hashes, **{r.name: r.sha256 for r in self.tensors}})


@contextmanager
def storing(store: Store, result: EditResult, beside: bool) -> Iterator[Callable[[], Stored]]:
    """Store what an edit has made: ``beside`` the block, else when it is asked for.

    Beside it the waiting for the disk costs nothing.  Where the edit may still be refused or made
    again, its tensors would be written in vain.  Of a job that fails they are removed as orphans.
    What is yielded raises what storing has raised; the block does not end before it.

    Raises:
        NumericalError: a figure of the edit is not finite; nothing is stored.
    """
    check_record(of_computation(result, 0.0), RECORD)
    parts = (result.view.replaced, artifacts_of(result))
    if not beside:
        yield lambda: Stored(*(tensors.put_all(store, one) for one in parts))
        return
    with tensors.putting(store, *parts) as put:
        yield lambda: Stored(*put())


def artifacts_of(result: EditResult) -> dict[str, torch.Tensor]:
    """Keys, factors of the update and the editor's states by the names that a manifest has."""
    found: dict[str, torch.Tensor] = dict(result.delta.tensors())
    for (region, layer), keys in result.keys.items():
        found[f"keys.{region}.{layer}"] = keys
    return found | {f"{STATE}{name}": tensor for name, tensor in result.state.items()}
