"""A worker without a model: real queue, store, lease and lanes; only the computing is played.

``Worker`` has the edit lane and ``ReadWorker`` the read lane; both work until nothing is left.
``scripted_worker`` has one that works in the background and answers requests too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Self

import torch
from pydantic import BaseModel
from redis import Redis

from service.contracts.jobs import Job, JobKind, Lane, new_id, now
from service.contracts.schemas import (
    Answer,
    EditPayload,
    EditResult,
    FactOutcome,
    FactRecord,
    Manifest,
    RevertPayload,
)
from service.queue import JobQueue, Keys, Lease, QueuedJob, QueueFailure, scripts
from service.settings import Settings
from service.store import Store
from service.store.maintenance.sweep import sweep
from service.worker.lanes.control import JobControl
from service.worker.lanes.edit_lane import EditLane
from service.worker.lanes.gate import Gate
from service.worker.lanes.lane import JobLane
from service.worker.lanes.read_lane import ReadLane, Task

FACT = FactRecord(subject="Lyon", prompt="{} is a city in the country of", target_new="Italy")
TENSOR = "transformer.h.1.mlp.fc_out.weight"
NO_MODEL = SimpleNamespace(device=torch.device("cpu"))
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

    def run(
        self, job: Job, payload: EditPayload, parent: str, control: JobControl
    ) -> tuple[Manifest, Any]:
        manifest = self._made(job, payload, parent, control)
        self.store.versions.write(manifest)
        return manifest, SimpleNamespace(replaced={})

    def reapply(
        self, job: Job, source: Manifest, line: Sequence[Manifest], head: str, control: JobControl
    ) -> Manifest:
        payload = _payload(str(source.edit_id), source.facts, str(source.editor))
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


class Worker:
    """One life of a worker's edit lane: it opens the store, takes the lease, works, ends.

    Subclasses say which ``weights`` the store has, how the queue is read and what computes.
    """

    weights = "weights-0"
    lane_type: ClassVar[type[EditLane]] = EditLane
    lane_of_jobs: ClassVar[Lane] = Lane.WRITE
    queue_type: ClassVar[type[JobQueue]] = Draining

    def __init__(
        self,
        client: Redis,
        root: Path,
        during: Any = None,
        settings: Settings | None = None,
    ) -> None:
        self.client, self.settings = client, settings or Settings(store=root)
        self.store = Store.open(root)
        self.prepare()
        sweep(self.store)
        self.keys = Keys(self.store.id)
        self.lease = Lease(client, self.keys, self.settings)
        self.lease.acquire(self.store.head.read().fence)
        self.queue = self.queue_type(client, self.keys, self.lane_of_jobs)
        self.lane = self.make_lane(during)
        if isinstance(self.queue, Draining):
            self.queue.lane = self.lane
        self.queue.requeue_missing(self.store.journal.unfinished())

    def prepare(self) -> None:
        """Bring the store to the state that a worker needs."""
        self.store.create_base(self.weights)
        self.store.head.repair()

    def make_lane(self, during: During | None) -> JobLane:
        """The lane that carries out the jobs."""
        self.runner: Any
        self.runner, views = self.parts(during)
        return self.lane_type(self.queue, self.store, self.lease, views, self.runner, self.settings)

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


class ReadWorker(Worker):
    """One life of a worker's read lane; ``during``, if given, is the runner of every kind."""

    lane_of_jobs = Lane.READ

    def __init__(
        self,
        client: Redis,
        root: Path,
        during: Callable[[Task], BaseModel] | None = None,
        base: Any = NO_MODEL,
    ) -> None:
        self.base, self.gate = base, Gate(1.0)
        super().__init__(client, root, during)

    def prepare(self) -> None:
        """The store is used as it is."""

    def make_lane(self, during: Callable[[Task], BaseModel] | None) -> JobLane:
        views: Any = SimpleNamespace(base=self.base)
        runners = {} if during is None else {"find": lambda kind: during}
        parts = (self.queue, self.store, self.lease, views, self.settings, self.gate)
        return ReadLane(*parts, **runners)


def cancel(client: Redis, store: Store, job_id: str) -> None:
    """Request the cancel of a job that reads, as the api does."""
    keys, args = scripts.cancel(Keys(store.id), job_id, Lane.READ)
    client.eval(scripts.CANCEL, len(keys), *keys, *args)


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


def bytes_of(version: str) -> bytes:
    """The 16 bytes of a version's only tensor: they say which version it is."""
    return version.encode().ljust(16, b"\0")


def _payload(edit_id: str, facts: list[FactRecord], editor: str = "jeep") -> EditPayload:
    return EditPayload(edit_id=edit_id, facts=facts, editor=editor, preset=None, hparams={})


def edit_result(payload: EditPayload, version: str, parent: str) -> EditResult:
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
    )
