"""Evaluation jobs on tasks of lm-eval, with a played lm-eval that asks and judges as it does."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import StringIO
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from support.library import tiny

from jeep_core.errors import Cancelled
from jeep_core.evaluation.harness import answers as answering
from jeep_core.evaluation.harness.answers import Answers
from jeep_core.evaluation.harness.catalogue import find
from jeep_core.evaluation.harness.intervals import LM_EVAL
from jeep_core.evaluation.harness.tasks import Metric, Outcome, Tasks
from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView
from service.cli.commands.evaluations import comparison_table, evaluation_table
from service.contracts.jobs import Job, JobKind, JobStatus, Progress, new_id, now
from service.contracts.schemas import EvaluationPayload, EvaluationResult, Manifest, Target
from service.contracts.schemas.evaluation import Evaluation, EvaluationComparison
from service.settings import Settings
from service.store import Store
from service.worker import harness
from service.worker.failures import Refused, failure
from service.worker.kinds import evaluations
from service.worker.lanes.read_lane import ReadControl, Task
from service.worker.moments import SharedMoments
from service.worker.versions import tensors
from service.worker.versions.views import VersionViews

SUITE = "lm-eval:general_choice"
PLACES = (" France", " Peru", " Japan", " Norway")
DOCS = [
    (f"{city} is a city in", (right, wrong))
    for city in ("Paris", "Lima", "Osaka")
    for right, wrong in permutations(PLACES, 2)
]
COUNT = len(DOCS)


@dataclass(frozen=True)
class Asked:
    args: tuple[Any, ...]


def mean(items: list[float]) -> float:
    return sum(items) / len(items)


mean.__module__ = LM_EVAL  # as lm-eval's own


def weighted_perplexity(items: list[tuple[float, float]]) -> float:
    return -sum(a for a, _ in items) / sum(b for _, b in items)


class Played:
    """Loads nothing; asks what lm-eval would ask, and judges the choice of the larger one."""

    def load(self, files: Any, cache: Path, limit: int | None, seed: int) -> Tasks:
        self.loaded = (tuple(file.name for file in files), cache, limit, seed)

        class Config:
            num_fewshot = 0

        class Loaded:
            config = Config
            eval_docs = DOCS

        return Tasks({"general_choice": Loaded})

    def ask(self, tasks: Tasks, answers: Answers, chat: bool) -> list[Outcome]:
        pairs = [(context, choice) for context, choices in DOCS for choice in choices]
        found = answers.loglikelihood([Asked(pair) for pair in pairs])
        values = [value for value, _ in found]
        right = [float(values[2 * i] > values[2 * i + 1]) for i in range(len(DOCS))]
        weighted = [(values[2 * i], 3) for i in range(len(DOCS))]
        documents: list[Mapping[str, Any]] = [
            {"arguments": [pairs[2 * i], pairs[2 * i + 1]], "target": 0,
             "filtered_resps": [list(one) for one in found[2 * i : 2 * i + 2]]}
            for i in range(len(DOCS))
        ]  # fmt: skip
        metrics = (
            Metric("acc", mean(right), tuple(right), mean, True),
            Metric("ppl", weighted_perplexity(weighted), tuple(weighted),
                   weighted_perplexity, False),
        )  # fmt: skip
        return [Outcome("general_choice", metrics, tuple(documents), tuple(range(COUNT)))]


class Bench:
    """A store with a second version, and a way to run jobs in it."""

    def __init__(self, root: Path, base: LoadedModel) -> None:
        self.base, self.store = base, Store.open(root)
        self.store.create_base(base.weights_sha256)
        self.settings = Settings(store=root)
        self.told: list[Progress] = []
        self.pauses = 0
        name = base.family.weight_name(2)
        view = ModelView(base, {name: base.model.get_parameter(name) * -3})
        self.version = self.store.versions.new_id()
        refs = [tensors.put(self.store, name, view.parameter(name))]
        manifest = Manifest(
            id=self.version, parent="v0", tensors=refs, weights_sha256=view.weights_sha256(),
            created_at=now(),
        )  # fmt: skip
        self.store.versions.write(manifest)

    def job(self, **more: Any) -> Job:
        job_id = new_id("job")
        payload = EvaluationPayload(
            evaluation_id="eval_" + job_id[4:],
            suite=SUITE,
            suite_sha256=find(SUITE, None).sha256,
            targets=[Target(label="base", version="v0"), Target(label="new", version=self.version)],
        ).model_copy(update=more)
        job = Job(id=job_id, kind=JobKind.EVALUATION, payload=payload.model_dump(mode="json"),
                  created_at=now())  # fmt: skip
        self.store.journal.add(job)
        return job

    def run(self, job: Job, look: Callable[[int], None] = lambda pauses: None) -> EvaluationResult:
        self.pauses = 0

        def pause() -> None:
            self.pauses += 1
            look(self.pauses)

        control = ReadControl(
            publish=self.told.append, checkpoint=lambda: None, pause=pause, give_way=lambda: None
        )
        moments = SharedMoments(self.base, self.store, self.settings)
        views = VersionViews(self.base, self.store)
        work = self.store.drafts.work_folder(job.id)
        return evaluations.run(
            Task(job, control, self.base, views, self.store, self.settings, work, moments)
        )

    def file(self, job: Job, name: str) -> list[dict[str, Any]]:
        text = (self.store.reports.folder(job.id) / name).read_text()
        return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return tiny.random_model("gptj")


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Played:
    made = Played()
    monkeypatch.setattr(harness, "load_tasks", made.load)
    monkeypatch.setattr(harness, "ask", made.ask)
    monkeypatch.setattr(harness, "installed_version", lambda: "0.4.13")
    return made


@pytest.fixture
def bench(tmp_path: Path, model: LoadedModel, played: Played) -> Bench:
    return Bench(tmp_path / "store", model)


def test_every_version_answers_and_is_compared(bench: Bench) -> None:
    job = bench.job()
    result = bench.run(job)
    base, new = result.points
    assert [point.label for point in result.points] == ["base", "new"]
    assert list(base.metrics) == ["general_choice/acc", "general_choice/ppl"]
    assert (base.cases, base.metrics["general_choice/acc"].cases) == (COUNT, COUNT)
    rows = bench.file(job, "cases-1.jsonl")
    assert [row["id"] for row in rows] == [f"general_choice/{i}" for i in range(COUNT)]
    assert rows[0]["prompt"] == "Paris is a city in"
    assert rows[0]["metrics"]["general_choice/ppl"][1] == 3
    [found] = bench.file(job, "comparisons.jsonl")
    for name in base.metrics:
        gain = new.metrics[name].value - base.metrics[name].value
        assert found["differences"][name]["value"] == pytest.approx(gain)
    scores = [
        [row["metrics"]["general_choice/acc"] for row in bench.file(job, f"cases-{i}.jsonl")]
        for i in range(2)
    ]
    gains = [later - earlier for earlier, later in zip(*scores, strict=True)]
    changed = {
        sign: [f"general_choice/{i}" for i, gain in enumerate(gains) if gain * sign > 0]
        for sign in (1, -1)
    }
    assert changed[1] or changed[-1]
    assert [one["id"] for one in found["better"]] == changed[1]
    assert [one["id"] for one in found["broken"]] == changed[-1]


def test_a_result_says_how_it_came_about(bench: Bench, played: Played) -> None:
    result = bench.run(bench.job(limit=2, seed=7))
    assert result.lm_eval is not None
    assert result.lm_eval.model_dump(exclude={"tasks"}) == {
        "version": "0.4.13", "tokenizer": "the model's own", "opening": "",
        "prefix": "<|endoftext|>", "max_length": tiny.POSITIONS,
    }  # fmt: skip
    [task] = result.lm_eval.tasks
    assert (task.name, task.documents, task.num_fewshot) == ("general_choice", COUNT, 0)
    names, _, limit, seed = played.loaded
    assert (names, limit, seed) == (("general_choice",), 2, 7)


def test_a_job_that_runs_again_asks_only_for_what_is_missing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = bench.run(bench.job())
    job = bench.job()

    def killed(pauses: int) -> None:
        if "new" in (point := [p.name for p in bench.store.drafts.work_folder(job.id).iterdir()]):
            raise AssertionError(point)
        if pauses == 4:
            raise KeyboardInterrupt  # as a SIGKILL: nothing of the job runs after it

    with pytest.raises(KeyboardInterrupt):
        bench.run(job, killed)
    counted: list[int] = []
    score = answering.read_tokens

    def counting(view: ModelView, rows: Any, monitor: Any) -> Any:
        counted.append(len(rows))
        return score(view, rows, monitor)

    monkeypatch.setattr(answering, "read_tokens", counting)
    again = bench.run(job)
    assert counted == [2 * COUNT], "the base has its answers"
    for one, other in zip(again.points, expected.points, strict=True):
        assert one.metrics == other.metrics


def test_progress_is_told_and_a_cancel_ends_the_job(bench: Bench) -> None:
    bench.run(bench.job())
    assert {(told.phase, told.total) for told in bench.told} == {("score", 2 * COUNT)}

    def cancel(pauses: int) -> None:
        raise Cancelled("cancelled on request")

    with pytest.raises(Cancelled):
        bench.run(bench.job(), cancel)


def test_a_task_that_has_changed_is_not_run(bench: Bench) -> None:
    with pytest.raises(Refused) as caught:
        bench.run(bench.job(suite_sha256="0" * 64))
    assert caught.value.code == "suite_changed"


def test_a_worker_without_lm_eval_says_how_to_install_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr("jeep_core.evaluation.harness.tasks.installed_version", lambda: None)
    with pytest.raises(Exception, match="pip install") as caught:
        bench.run(bench.job())
    assert failure(caught.value).code == "no_lm_eval"


def test_tables_have_a_column_for_each_version(bench: Bench) -> None:
    job = bench.job()
    result = bench.run(job)
    shown = Evaluation(
        id=result.evaluation_id, job_id=job.id, status=JobStatus.SUCCEEDED, suite=SUITE,
        targets=[], editor=None, preset=None, hparams={}, limit=None, seed=0, created_at=now(),
        progress=Progress(), result=result,
    )  # fmt: skip
    [compared] = bench.file(job, "comparisons.jsonl")
    console = Console(width=200, record=True, file=StringIO())
    console.print(evaluation_table(shown))
    console.print(comparison_table(EvaluationComparison.model_validate(compared)))
    text = console.export_text()
    assert "no BOS before a text; windows of 64 tokens" in text
    assert f"general_choice {COUNT} documents 0-shot" in text
    assert "general_choice/ppl" in text
