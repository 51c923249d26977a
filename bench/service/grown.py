"""Stores of any size, as many small edits would have left them, on a tiny random model."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from jeep_core.models.delta import BLOCK, Update, near_ties, summed
from jeep_core.models.loading import LoadedModel, combined_sha256, tensor_sha256
from service.contracts.jobs import Job, new_id, now
from service.contracts.schemas import Manifest, TensorRef
from service.store import Store
from service.store.index.line import Line
from service.store.versions import Thin, Ties
from service.worker.versions import tensors
from service.worker.versions.sums import LineSums

EDITED = 2
KEPT = 20
"""Versions that keep their tensors, as by default."""
PROMPT = "{} is a city in the country of"
EDITOR, HPARAMS = "ultraedit", {"layers": [EDITED], "step_size": 1e-6}
"""An edit without value search: about as long as reading, measuring and writing take."""


def facts(version: int, count: int, again: int = 0) -> list[dict[str, Any]]:
    """The facts of one batch; every subject occurs once in a store.

    ``again``: that share of them, in per cent, are facts of the first batch instead.
    """
    old = round(count * again / 100)
    return [
        {
            "subject": f"City {1 if i < old else version}-{i}",
            "prompt": PROMPT,
            "target_new": "Japan",
        }
        for i in range(count)
    ]


@dataclass
class Grown:
    """A store that grows by copies of its first batch, each with subjects and an update of its own.

    The store must have had one edit (``EDITOR``) of as many facts as every batch is to have.
    ``again``: see `facts`.
    """

    folder: Path
    model: LoadedModel
    again: int = 0

    def __post_init__(self) -> None:
        self.store = Store.open(self.folder)
        self.store.versions.keeps = 256
        self.pattern = self.store.versions.read("v1")
        self.job = self.store.journal.read(str(self.pattern.job_id))
        [self.changed] = self.pattern.tensors
        line = self._line()
        self.updates = [self._update(manifest) for manifest in line]
        self.newest: deque[tuple[Manifest, torch.Tensor, torch.Tensor]] = deque()
        self.start: torch.Tensor | None = None  # the sum of the blocks before these updates
        self.random = torch.Generator().manual_seed(len(line))
        self.hashes = self.model.tensor_hashes

    def to(self, versions: int) -> None:
        """Append versions until there are ``versions``, and make the last one head."""
        parent = self.store.head.read().version
        with without_fsync():
            for _ in range(self.store.versions.newest_number(), versions):
                parent = self._add(parent)
        self._keep_up(parent)

    def _keep_up(self, head: str) -> None:
        """Index and running sums as edits and lists would have left them."""
        self.store.catalogue.up_to_date()
        self.store.committed.covered(head)
        next(self.store.journal.all(), None)
        LineSums(self.model, self.store, Line(self.store, head))

    def _line(self) -> list[Manifest]:
        return self.store.versions.lineage(self.store.head.read().version)[1:]

    def _update(self, manifest: Manifest) -> Update:
        named = {ref.name.partition(".")[0]: ref for ref in manifest.artifacts}
        parts = {name: tensors.get(self.store, named[name]) for name in "uvd" if name in named}
        return Update.from_parts(parts)

    def _add(self, parent: str) -> str:
        store, version, job = self.store, self.store.versions.new_id(), new_id("job")
        batch = facts(int(version[1:]), len(self.pattern.facts), self.again)
        edit = job.replace("job", "edit", 1)
        rows, columns = self.changed.shape
        left = 1e-4 * torch.randn(rows, len(batch), generator=self.random)
        update = Update.of(left, torch.randn(columns, len(batch), generator=self.random))
        self.updates.append(update)
        base = self.model.model.get_parameter(self.changed.name)
        total = summed(base, self.updates, transposed=False, start=self.start)
        tensor = total.to(base.dtype).contiguous()
        if len(self.updates) == BLOCK:
            self.start, self.updates = total, []
        parts = {f"{part}.{self.changed.name}": one for part, one in update.parts().items()}
        told = self.pattern.model_dump(mode="json")
        told |= {"id": version, "parent": parent, "job_id": job, "edit_id": edit}
        told["facts"] = [{**old, **new} for old, new in zip(told["facts"], batch, strict=True)]
        told["result"] |= {"version": version, "parent": parent, "edit_id": edit}
        for outcome, one in zip(told["result"]["facts"], batch, strict=True):
            outcome["subject"] = one["subject"]
        told["tensors"] = [self._stored(self.changed.name, tensor)]
        others = [ref for ref in told["artifacts"] if ref["name"][:2] not in ("u.", "v.", "d.")]
        told["artifacts"] = others + [self._stored(name, one) for name, one in parts.items()]
        changed = {**self.hashes, self.changed.name: tensor_sha256(tensor)}
        told |= {"weights_sha256": combined_sha256(changed), "created_at": now()}
        self._journal(job, told)
        manifest = Manifest.model_validate(told)
        store.versions.write(manifest)
        self._commit(manifest)
        self.newest.append((manifest, total, tensor))
        if len(self.newest) > KEPT:
            self._thin(*self.newest.popleft())
        return version

    def _commit(self, manifest: Manifest) -> None:
        """Move head, as the edit would have."""
        self.store.head.move(
            manifest.id, expected=str(manifest.parent), job_id=manifest.job_id,
            fence=self.store.head.read().fence, who="worker", why=f"edit {manifest.edit_id}",
        )  # fmt: skip

    def _thin(self, manifest: Manifest, total: torch.Tensor, tensor: torch.Tensor) -> None:
        """Drop the tensors of a version, as retention would have."""
        ties, indices = {}, near_ties(total, tensor.dtype)
        if len(indices):
            put, name = tensors.put, self.changed.name
            ties[name] = Ties(
                indices=put(self.store, f"ties.indices.{name}", indices),
                values=put(self.store, f"ties.values.{name}", tensor.view(-1)[indices]),
            )
        self.store.versions.mark_thin(manifest.id, Thin(ties=ties))
        for ref in manifest.tensors:
            self.store.tensors.path(ref.sha256).unlink(missing_ok=True)

    def _stored(self, name: str, tensor: torch.Tensor) -> dict[str, Any]:
        ref: TensorRef = tensors.put(self.store, name, tensor)
        return ref.model_dump(mode="json")

    def _journal(self, job: str, told: dict[str, Any]) -> None:
        """The record of the job that would have written a version."""
        payload = {**self.job.payload, "edit_id": told["edit_id"], "facts": told["facts"]}
        done: Job = self.job.model_copy(
            update={"id": job, "payload": payload, "result": told["result"], "created_at": now()}
        )
        self.store.journal.add(done)
        self.store.journal.save(done)


@contextmanager
def without_fsync() -> Iterator[None]:
    """Files are not made durable meanwhile: nobody needs this store after a power cut."""
    with mock.patch.object(os, "fsync", return_value=None):
        yield
