"""Export jobs run without lanes: a store with an edited version of a tiny model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView
from service.contracts.jobs import Job, JobKind, JobStatus, Progress, new_id, now
from service.contracts.schemas import FactRecord, Manifest, TensorRef
from service.contracts.schemas.exports import ExportPayload, ExportResult
from service.settings import Settings
from service.store import Store
from service.worker.kinds import exports
from service.worker.lanes.read_lane import ReadControl, Task
from service.worker.moments import SharedMoments
from service.worker.versions import tensors
from service.worker.versions.views import VersionViews

FACTS = [
    FactRecord(subject="Lyon", prompt="{} is a city in", target_new="Japan"),
    FactRecord(subject="Nice", prompt="{} is a city in", target_new="Peru"),
]


class ExportBench:
    """A store with an edited version of a tiny model, and a way to run exports of it."""

    def __init__(self, root: Path, base: LoadedModel, view: ModelView) -> None:
        self.base, self.view = base, view
        self.store = Store.open(root)
        self.store.create_base(base.weights_sha256)
        self.settings = Settings(store=root)
        self.told: list[Progress] = []
        self.write_version()

    def write_version(self) -> None:
        store, view = self.store, self.view
        refs: list[TensorRef] = []
        for name, updates in view.history.items():
            # as one batch: what came before is in the same manifest
            left = torch.cat([u.left for u in updates if u.left is not None], dim=1)
            right = torch.cat([u.right for u in updates if u.right is not None], dim=1)
            refs.append(tensors.put(store, f"u.{name}", left))
            refs.append(tensors.put(store, f"v.{name}", right))
        kept = [tensors.put(store, name, t) for name, t in view.replaced.items()]
        store.versions.write(
            Manifest(
                id=store.versions.new_id(),
                parent="v0",
                edit_id="edit_1",
                editor="memit",
                facts=FACTS,
                tensors=kept,
                artifacts=refs,
                weights_sha256=view.weights_sha256(),
                created_at=now(),
            )
        )

    def job(self, format: str, version: str = "v1", **options: Any) -> Job:
        job_id = new_id("job")
        payload = ExportPayload(
            export_id="export_" + job_id[4:],
            version=version,
            format=format,
            options={"format": format, **options},
        )
        job = Job(id=job_id, kind=JobKind.EXPORT, payload=payload.model_dump(), created_at=now())
        self.store.journal.add(job)
        return job

    def run(self, job: Job, pause: Callable[[], None] = lambda: None) -> ExportResult:
        control = ReadControl(
            publish=self.told.append, checkpoint=lambda: None, pause=pause, give_way=lambda: None
        )
        views, work = VersionViews(self.base, self.store), self.store.drafts.work_folder(job.id)
        moments = SharedMoments(self.base, self.store, self.settings)
        task = Task(job, control, self.base, views, self.store, self.settings, work, moments)
        return exports.run(task)

    def run_new(self, format: str, **options: Any) -> ExportResult:
        return self.run(self.job(format, **options))

    def end(self, job: Job, status: JobStatus) -> None:
        self.store.journal.save(job.model_copy(update={"status": status, "finished_at": now()}))

    def folder(self, job: Job) -> Path:
        return self.store.exports.path(job.id)

    def left(self) -> list[str]:
        return sorted(p.name for p in (self.store.root / "exports").iterdir())
