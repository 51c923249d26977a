"""The edit lane with a real queue and a real store; only the computing of edits is simulated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

from redis import Redis

from service.contracts.jobs import Job, JobKind, new_id, now
from service.contracts.schemas import (
    Answer,
    EditPayload,
    EditResult,
    FactOutcome,
    FactRecord,
    Manifest,
    RevertPayload,
)
from service.queue import JobQueue, Keys, Lease, QueuedJob, QueueFailure
from service.settings import Settings
from service.store import Store
from service.store.maintenance.sweep import sweep
from service.worker.lanes.control import JobControl
from service.worker.lanes.edit_lane import EditLane
from service.worker.lanes.lane import JobLane

FACT = FactRecord(subject="Lyon", prompt="{} is a city in the country of", target_new="Italy")
During = Callable[[Job, JobControl], None]


class Killed(BaseException):
    """As a SIGKILL: nothing of the worker runs after it."""


class Draining(JobQueue):
    """A queue whose lane stops when nothing is left to do."""

    lane: JobLane

    def next(self, wait_ms: float) -> QueuedJob | None:
        queued = super().next(0)
        if queued is None:
            self.lane.stop.set()
        return queued


class PlayedRunner:
    """Writes a version without a model; ``during`` is what happens while it computes."""

    def __init__(self, store: Store, during: During | None = None) -> None:
        self.store, self.during = store, during
        self.parents: list[str] = []

    def run(self, job: Job, parent: str, control: JobControl) -> tuple[Manifest, Any]:
        manifest = self._made(job, EditPayload.model_validate(job.payload), parent, control)
        self.store.versions.write(manifest)
        return manifest, SimpleNamespace(replaced={})

    def reapply(
        self, job: Job, source: Manifest, line: Sequence[Manifest], head: str, control: JobControl
    ) -> Manifest:
        payload = _payload(str(source.edit_id), source.facts)
        made = self._made(job, payload, line[-1].id, control)
        return made.model_copy(update={"reapplied_from": source.id})

    def _made(self, job: Job, payload: EditPayload, parent: str, control: JobControl) -> Manifest:
        self.parents.append(parent)
        control.progress("optimise", 1, 2)
        if self.during is not None:
            self.during(job, control)
        control.checkpoint()
        version = self.store.versions.new_id()
        ref = self.store.tensors.put("w", "U8", [len(version)], version.encode())
        result = _result(payload, version, parent)
        return Manifest(
            id=version,
            parent=parent,
            job_id=job.id,
            edit_id=payload.edit_id,
            facts=payload.facts,
            tensors=[ref],
            weights_sha256=ref.sha256,
            created_at=now(),
            result=result,
            staged=not payload.activate,
        )


class Worker:
    """One life of a worker's edit lane: it opens the store, takes the lease, works, ends."""

    weights = "weights-0"

    def __init__(self, client: Redis, root: Path, during: During | None = None) -> None:
        self.store = Store.open(root)
        self.store.create_base(self.weights)
        self.store.head.repair()
        sweep(self.store)
        settings, keys = Settings(store=root), Keys(self.store.id)
        self.lease = Lease(client, keys, settings)
        self.lease.acquire(self.store.head.read().fence)
        self.queue = Draining(client, keys)
        self.runner: Any
        self.runner, views = self.parts(during)
        self.lane = EditLane(self.queue, self.store, self.lease, views, self.runner, settings)
        self.queue.lane = self.lane
        self.queue.requeue_missing(self.store.journal.unfinished())

    def parts(self, during: During | None) -> tuple[Any, Any]:
        """The parts that compute versions, and the parts that serve them."""
        views = SimpleNamespace(put=lambda version, view: None, get=lambda version: None)
        return PlayedRunner(self.store, during), views

    def work(self) -> Self:
        """Work until nothing is left to do, or until something breaks."""
        try:
            self.lane.run()
        finally:
            with suppress(QueueFailure):
                self.lease.release()
        return self


def edit_job(store: Store, **payload: Any) -> Job:
    """A journaled edit of one fact, as the api makes it."""
    job_id = new_id("job")
    given = _payload(job_id.replace("job", "edit"), [FACT]).model_copy(update=payload)
    job = Job(id=job_id, kind=JobKind.EDIT, payload=given.model_dump(), created_at=now())
    store.journal.add(job)
    return job


def revert_job(store: Store, edit_id: str, **payload: Any) -> Job:
    """A journaled revert, as the api makes it."""
    given = RevertPayload(edit_id=edit_id, **payload)
    job_id = new_id("job")
    job = Job(id=job_id, kind=JobKind.REVERT, payload=given.model_dump(), created_at=now())
    store.journal.add(job)
    return job


def _payload(edit_id: str, facts: list[FactRecord]) -> EditPayload:
    return EditPayload(edit_id=edit_id, facts=facts, editor="jeep", preset=None, hparams={})


def _result(payload: EditPayload, version: str, parent: str) -> EditResult:
    answer = Answer(p_new=0.5, text="Italy")
    fields = {"before": answer, "after": answer, "success": True, "steps": 1}
    outcomes = [
        FactOutcome(index=i, **fact.model_dump(), **fields, target_probability=0.5)
        for i, fact in enumerate(payload.facts)
    ]
    return EditResult(
        edit_id=payload.edit_id,
        version=version,
        parent=parent,
        snapshot_name=payload.snapshot_name,
        facts=outcomes,
        efficacy=1.0,
        greedy_success=1.0,
        layers=[],
        seconds={},
        activated=payload.activate,
    )
