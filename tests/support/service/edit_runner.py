"""Real edits of a tiny model, without a queue."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView
from jeep_core.moments.published import Imported
from service.contracts.jobs import Job, JobKind, Progress, now
from service.contracts.schemas import EditPayload, Manifest
from service.settings import Settings
from service.store import Store
from service.worker.gate import Gate
from service.worker.kinds.edits import EditRunner
from service.worker.lanes.control import JobControl
from service.worker.lanes.read_lane import ReadControl, Task
from service.worker.moments import SharedMoments
from service.worker.versions.views import VersionViews
from support import TINY_GPTJ

MODEL = TINY_GPTJ
LAYERS = (0, 1)
HPARAMS = {
    "low": {
        "layers": list(LAYERS),
        "clamp": 1.0,
        "weight_decay": 0.5,
        "moment_weight": 10.0,
        "spread": "linear",
    },
    "n_steps": 2,
    "learning_rate": 0.5,
    "kl_weight": 0.06,
    "n_prefixes": 1,
}
FACT = {"subject": "Lyon", "prompt": "{} lies in", "target_new": "Peru"}


def runner_on(base: LoadedModel, store: Store, folder: Path, **settings: Any) -> EditRunner:
    """A runner on a store with ``v0`` as head and second moments of random keys."""
    give_moments(base, store, folder)
    return runner_and_views(base, store, **settings)[0]


def give_moments(base: LoadedModel, store: Store, folder: Path) -> None:
    """Bind a store to the model and import second moments."""
    store.bind_model(base.model_hash)
    store.create_base(base.weights_sha256)
    imported = Imported(store.base.moments_folder, "wikipedia")
    keys = np.random.default_rng(0).normal(size=(400, base.mlp_size)).astype("float32")
    for layer in LAYERS:
        path = folder / f"transformer.h.{layer}.mlp.fc_out_float32_mom2_100.npz"
        np.savez(path, **{"mom2.count": 400, "mom2.mom2": keys.T @ keys})
        imported.add(base, path)


def runner_and_views(
    base: LoadedModel, store: Store, **settings: Any
) -> tuple[EditRunner, VersionViews]:
    given = {"moments": "wikipedia", "factor_memory_mb": 1, **settings}
    chosen = Settings(store=store.root, model=str(MODEL), **given)
    views = VersionViews(base, store)
    return EditRunner(base, store, views, chosen, Gate(chosen.edit_share)), views


def an_edit(*facts: dict[str, Any], number: int = 1, **more: Any) -> Job:
    payload = {
        "edit_id": f"edit_{number}",
        "facts": list(facts or [FACT]),
        "editor": "memit",
        "preset": None,
        "hparams": HPARAMS,
        **more,
    }
    return Job(id=f"job_{number}", kind=JobKind.EDIT, payload=payload, created_at=now())


def edit_on(runner: EditRunner, job: Job, parent: str) -> tuple[Manifest, ModelView]:
    """Carry out an edit job on top of ``parent``."""
    return runner.run(job, EditPayload.model_validate(job.payload), parent, control())


def control() -> JobControl:
    return JobControl(publish=lambda progress: None, checkpoint=lambda: None)


class ReadBench:
    """The parts that every kind of read job is tested with; ``told``: the progress so far."""

    def __init__(self, base: LoadedModel, root: Path) -> None:
        self.base, self.store = base, Store.open(root / "store")
        give_moments(base, self.store, root)
        self.runner, self.views = runner_and_views(base, self.store)
        self.settings = Settings(store=self.store.root)
        self.told: list[Progress] = []

    def edit(self, *facts: dict[str, Any], **more: Any) -> Manifest:
        """Edit the version that head is at; head stays there."""
        on, number = self.store.head.read().version, len(list(self.store.versions.all()))
        return edit_on(self.runner, an_edit(*facts, number=number, **more), on)[0]

    def task(self, job: Job) -> Task:
        """An attempt at a job, which nobody cancels."""
        control = ReadControl(
            publish=self.told.append,
            checkpoint=lambda: None,
            pause=lambda: None,
            give_way=lambda: None,
        )
        views, work = VersionViews(self.base, self.store), self.store.drafts.work_folder(job.id)
        moments = SharedMoments(self.base, self.store, self.settings)
        return Task(job, control, self.base, views, self.store, self.settings, work, moments)
