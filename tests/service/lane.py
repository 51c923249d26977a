"""The edit lane with a real queue and a real store; only the computing of edits is played."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from service.jobs import Job, JobKind, new_id, now
from service.queue import JobQueue, Keys, Lease, QueuedJob
from service.schemas import (
    Answer,
    EditPayload,
    EditResult,
    FactOutcome,
    FactRecord,
    Manifest,
)
from service.settings import Settings
from service.store import Store
from service.worker.edit_lane import EditLane
from service.worker.edits import JobControl
from service.worker.lane import JobLane

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
        self.parents.append(parent)
        control.progress("optimise", 1, 2)
        if self.during is not None:
            self.during(job, control)
        control.checkpoint()
        payload = EditPayload.model_validate(job.payload)
        version = self.store.new_version_id()
        ref = self.store.put_tensor("w", "U8", [len(version)], version.encode())
        result = _result(payload, version, parent)
        manifest = Manifest(
            id=version,
            parent=parent,
            job_id=job.id,
            edit_id=payload.edit_id,
            facts=payload.facts,
            tensors=[ref],
            weights_sha256=ref.sha256,
            created_at=now(),
            result=result,
        )
        self.store.write_version(manifest)
        return manifest, SimpleNamespace(replaced={})


class Worker:
    """One life of a worker's edit lane: it opens the store, takes the lease, works, ends."""

    def __init__(self, client: Redis, root: Path, during: During | None = None) -> None:
        self.store = Store.open(root)
        self.store.create_base("weights-0")
        self.store.repair_reflog()
        self.store.sweep()
        settings, keys = Settings(store=root), Keys(self.store.id)
        self.lease = Lease(client, keys, settings)
        self.lease.acquire(self.store.head().fence)
        self.queue = Draining(client, keys)
        self.runner = PlayedRunner(self.store, during)
        views: Any = SimpleNamespace(put=lambda version, view: None)
        runner: Any = self.runner
        self.lane = EditLane(self.queue, self.store, self.lease, views, runner, settings)
        self.queue.lane = self.lane
        self.queue.requeue_missing(self.store.unfinished_jobs())

    def work(self) -> Worker:
        """Do all there is to do, or until something breaks."""
        try:
            self.lane.run()
        finally:
            with suppress(RedisError):
                self.lease.release()
        return self


def edit_job(store: Store, **payload: Any) -> Job:
    """A journaled edit of one fact, as the api makes it."""
    job_id = new_id("job")
    given = EditPayload(
        edit_id=job_id.replace("job", "edit"),
        facts=[FACT],
        editor="jeep",
        preset=None,
        hparams={},
        **payload,
    )
    job = Job(id=job_id, kind=JobKind.EDIT, payload=given.model_dump(), created_at=now())
    store.journal(job)
    return job


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
    )
