"""A store with a suite and versions of a tiny model, and a way to run evaluation jobs in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jeep_core.executors.here import HERE
from jeep_core.executors.work import Executor
from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView
from service.contracts.jobs import Job, JobKind, Progress, new_id, now
from service.contracts.schemas import (
    EvaluationPayload,
    EvaluationResult,
    Manifest,
    SuiteInfo,
    Target,
)
from service.settings import Settings
from service.store import Store
from service.worker.kinds import evaluations
from service.worker.lanes.read_lane import ReadControl, Task
from service.worker.moments import SharedMoments
from service.worker.partial_results import Records
from service.worker.versions import tensors
from service.worker.versions.views import VersionViews
from support.library import tiny

CITIES = ("Paris", "Berlin", "Rome", "Madrid", "Oslo", "Kraków")
FACTS = [
    {
        "subject": city,
        "prompt": "{} is a city in the country of",
        "target_new": "Peru",
        "target_true": "Norway",
        "paraphrase_prompts": [f"People who live in {city} are at home in"],
        "neighborhood_prompts": ["The capital of Japan is", f"{city} lies on"],
        "generation_prompts": [f"{city} is"],
    }
    for city in CITIES
]


class Bench:
    """A store with a suite and a second version, and a way to run jobs in it."""

    def __init__(self, root: Path, base: LoadedModel, facts: list[dict[str, Any]]) -> None:
        self.base, self.store = base, Store.open(root)
        self.store.create_base(base.weights_sha256)
        self.settings = Settings(store=root, corpus=_corpus(root), moment_samples=400)
        self.moments = SharedMoments(base, self.store, self.settings)
        self.add("mine", facts)
        self.told: list[Progress] = []
        self.pauses = 0

    def add(
        self,
        name: str,
        facts: list[dict[str, Any]],
        format: str = "plain",
        style: str = "contrast",
    ) -> None:
        suites = self.store.suites
        with suites.upload() as upload:
            upload.write("".join(json.dumps(fact) + "\n" for fact in facts).encode())
            info = SuiteInfo(
                name=name, format=format, style=style, records=len(facts),
                cases=len(facts), bytes=upload.bytes, sha256=upload.sha256,
            )  # fmt: skip
            suites.add(upload, info)

    def add_version(self) -> str:
        name = self.base.family.weight_name(2)
        view = ModelView(self.base, {name: self.base.model.get_parameter(name) * -3})
        version = self.store.versions.new_id()
        refs = [tensors.put(self.store, name, view.parameter(name))]
        self.store.versions.write(
            Manifest(
                id=version, parent="v0", tensors=refs,
                weights_sha256=view.weights_sha256(), created_at=now(),
            )
        )  # fmt: skip
        return version

    def job(self, **payload: Any) -> Job:
        job_id = new_id("job")
        given = {
            "evaluation_id": "eval_" + job_id[4:],
            "suite": "mine",
            "suite_sha256": self.store.suites.get("mine").sha256,
            "targets": [Target(label="base", version="v0")],
            "fluency_texts": 2,
        }
        filled = EvaluationPayload.model_validate(given | payload)
        job = Job(
            id=job_id, kind=JobKind.EVALUATION, payload=filled.model_dump(mode="json"),
            created_at=now(),
        )  # fmt: skip
        self.store.journal.add(job)
        return job

    def run(
        self,
        job: Job,
        look: Callable[[int], None] = lambda pauses: None,
        executor: Executor = HERE,
    ) -> EvaluationResult:
        """One attempt; ``look`` is called at every pause with how many there were."""
        self.pauses = 0

        def pause() -> None:
            self.pauses += 1
            look(self.pauses)

        control = ReadControl(
            publish=self.told.append, checkpoint=lambda: None, pause=pause, give_way=lambda: None
        )
        views = VersionViews(self.base, self.store)
        work = self.store.drafts.work_folder(job.id)
        return evaluations.run(
            Task(
                job,
                control,
                self.base,
                views,
                self.store,
                self.settings,
                work,
                self.moments,
                executor,
            )
        )

    def rows(self, job: Job, number: int = 0) -> list[dict[str, Any]]:
        return list(Records(self.store.reports.folder(job.id) / f"cases-{number}.jsonl").read())


def _corpus(root: Path) -> Path:
    path = root.parent / "corpus.txt"
    path.write_text("\n".join(tiny.TEXTS), encoding="utf-8")
    return path
