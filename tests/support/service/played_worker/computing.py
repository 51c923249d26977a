"""What stands for the model: versions of one small tensor, and results in which all went well."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from pydantic import BaseModel

from service.contracts.jobs import Job, now
from service.contracts.schemas import Answer, EditPayload, EditResult, FactOutcome, Manifest
from service.store import Store
from service.worker.failures import Refused
from service.worker.lanes.control import JobControl
from service.worker.lanes.read_lane import Task
from support.service.played_worker.jobs import edit_payload

TENSOR = "transformer.h.1.mlp.fc_out.weight"
NO_MODEL = SimpleNamespace(device=torch.device("cpu"))
NO_VIEWS = SimpleNamespace(put=lambda version, view: None, get=lambda version: None)
During = Callable[[Job, JobControl], None]
"""What happens while an edit computes."""


class Killed(BaseException):
    """As a SIGKILL: nothing of the worker runs after it."""


class PlayedRunner:
    """Writes a version without a model; ``during`` is what happens while it computes."""

    def __init__(self, store: Store, during: During | None = None) -> None:
        self.store, self.during = store, during
        self.parents: list[str] = []

    def run(
        self, job: Job, payload: EditPayload, parent: str, control: JobControl
    ) -> tuple[Manifest, Any]:
        manifest = self._made(job, payload, parent, control)
        self.store.versions.write(manifest)
        return manifest, SimpleNamespace(replaced={})

    def reapply(
        self, job: Job, source: Manifest, line: Sequence[Manifest], head: str, control: JobControl
    ) -> Manifest:
        payload = edit_payload(str(source.edit_id), source.facts, str(source.editor))
        made = self._made(job, payload, line[-1].id, control)
        return made.model_copy(update={"reapplied_from": source.id})

    def _made(self, job: Job, payload: EditPayload, parent: str, control: JobControl) -> Manifest:
        self.parents.append(parent)
        control.progress("optimise", 1, 2)
        if self.during is not None:
            self.during(job, control)
        control.checkpoint()
        version = self.store.versions.new_id()
        ref = self.store.tensors.put(TENSOR, "F32", [2, 2], bytes_of(version))
        return Manifest(
            id=version,
            parent=parent,
            job_id=job.id,
            edit_id=payload.edit_id,
            editor=payload.editor,
            facts=payload.facts,
            tensors=[ref],
            weights_sha256=ref.sha256,
            created_at=now(),
            result=edit_result(payload, version, parent),
            staged=not payload.activate,
        )


def bytes_of(version: str) -> bytes:
    """The 16 bytes of a version's only tensor: they say which version it is."""
    return version.encode().ljust(16, b"\0")


def edit_result(payload: EditPayload, version: str, parent: str) -> EditResult:
    """The result of an edit all of whose facts took."""
    facts = [
        FactOutcome(
            index=index,
            **fact.model_dump(include={"subject", "prompt", "target_new", "target_true"}),
            before=Answer(p_new=0.01, text="old"),
            after=Answer(p_new=0.99, text=fact.target_new),
            success=True,
            steps=3,
            target_probability=0.9,
        )
        for index, fact in zip(payload.sent_as, payload.facts, strict=True)
    ]
    return EditResult(
        edit_id=payload.edit_id,
        version=version,
        parent=parent,
        snapshot_name=payload.snapshot_name,
        facts=facts,
        efficacy=1.0,
        greedy_success=1.0,
        layers=[],
        seconds={"total": 0.1},
        duplicates=payload.duplicates,
        activated=payload.activate,
        editor_reason=payload.editor_reason,
    )


def refuse(task: Task) -> BaseModel:
    """The runner of every job that reads, where there is no model to read."""
    raise Refused("refused", "this worker has no model")
