"""Evaluation jobs on a small random model: what they measure, store and resume."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from support.library import tiny
from support.service.evaluation_bench import FACTS, Bench

from jeep_core.editors.memit.hparams import MemitHParams
from jeep_core.errors import Cancelled, NumericalError
from jeep_core.evaluation import metrics, units
from jeep_core.evaluation.asking import as_asked
from jeep_core.evaluation.fluency import written
from jeep_core.executors.here import Here
from jeep_core.executors.work import Work
from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView
from jeep_core.probe import anchor as anchor_module
from jeep_core.probe.anchor import Anchor
from jeep_core.suites import Case, Style, load_suite
from jeep_core.values import units as value_units
from service.contracts.jobs import Job, now
from service.contracts.schemas import (
    EvaluationResult,
    Manifest,
    Target,
)
from service.store.files import sha256_of
from service.worker.failures import Refused
from service.worker.kinds import evaluations
from service.worker.partial_results import Records
from service.worker.versions import tensors

MEMIT = MemitHParams(
    low={"layers": [1], "clamp": 2.0, "moment_weight": 5}, n_steps=3, n_prefixes=2
).model_dump(mode="json")


class Killed(BaseException):
    """As a SIGKILL: nothing of the job runs after it."""


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return tiny.random_model("gptj")


@pytest.fixture(autouse=True)
def _short_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluations, "written", partial(written, tokens=12))


@pytest.fixture
def bench(tmp_path: Path, model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(units, "CASES_TOGETHER", 2)
    return Bench(tmp_path / "store", model, FACTS)


def cases(bench: Bench) -> list[Case]:
    return list(load_suite(bench.store.suites.path("mine")).cases)


def nearly(value: Any) -> Any:
    """Equal but for rounding: a case that is measured alone is in a batch of another shape."""
    if isinstance(value, dict):
        return {name: nearly(part) for name, part in value.items()}
    if isinstance(value, list):
        return [nearly(part) for part in value]
    return pytest.approx(value, abs=1e-5) if isinstance(value, float) else value


def without_time(result: EvaluationResult) -> dict[str, Any]:
    found = result.model_dump(exclude={"evaluation_id"})
    for point in found["points"]:
        del point["seconds"]
    return found


class TestVersions:
    def test_a_version_is_measured_as_the_library_measures_it(self, bench: Bench) -> None:
        job = bench.job()
        result = bench.run(job)
        [point] = result.points
        records = metrics.measure(ModelView(bench.base), cases(bench), Style.CONTRAST)
        expected = metrics.summarise([record.scores for record in records])
        assert point.metrics["efficacy"].value == pytest.approx(expected.efficacy)
        assert point.metrics["locality"].value == pytest.approx(expected.locality)
        assert point.metrics["score"].value == pytest.approx(expected.score)
        rows = bench.rows(job)
        assert [row["id"] for row in rows] == [str(i) for i in range(6)]
        assert {row["target"] for row in rows} == {"base"}
        assert [len(row["prompts"]) for row in rows] == [4] * 6
        assert ["text" in row for row in rows] == [True, True, False, False, False, False]
        assert point.metrics["fluency"].cases == 2

    def test_versions_are_compared_case_by_case(self, bench: Bench) -> None:
        version = bench.add_version()
        targets = [Target(label="base", version="v0"), Target(label="new", version=version)]
        job = bench.job(targets=targets)
        base, new = bench.run(job).points
        folder = bench.store.reports.folder(job.id)
        [found] = Records(folder / "comparisons.jsonl").read()
        assert (found["a"], found["b"], found["cases"]) == ("base", "new", 6)
        for name in ("efficacy", "locality", "margin"):
            difference = new.metrics[name].value - base.metrics[name].value
            assert found["differences"][name]["value"] == pytest.approx(difference)
        before, after = bench.rows(job, 0), bench.rows(job, 1)
        broken = [
            a["id"] for a, b in zip(before, after, strict=True)
            if any(b[n] < a[n] for n in ("efficacy", "generalization", "locality", "greedy"))
        ]  # fmt: skip
        assert [change["id"] for change in found["broken"]] == broken
        assert before != after

    def test_a_perplexity_names_its_text_and_how_much_of_it_was_read(
        self, bench: Bench, tmp_path: Path
    ) -> None:
        """Also where an attempt before has measured a target on another text."""
        first, second = tmp_path / "first.txt", tmp_path / "second.txt"
        first.write_text("People who live in Paris\n" * 3)
        second.write_text("Rome lies on the river\n" * 3)
        bench.settings.perplexity_text, bench.settings.perplexity_tokens = first, 12
        job = bench.job(targets=[Target(label=name, version="v0") for name in ("one", "two")])
        result = bench.run(job)
        assert result.suite_sha256 == bench.store.suites.get("mine").sha256
        text = result.points[0].perplexity_text
        assert text is not None
        assert (text.name, text.sha256, text.tokens) == ("first.txt", sha256_of(first), 12)
        how = result.protocols["perplexity"].how
        assert how == f"read: the first 12 tokens of first.txt (SHA-256 {text.sha256[:12]}…)"
        (bench.store.drafts.work_folder(job.id) / "point-1.json").unlink()
        bench.settings.perplexity_text = second
        again = bench.run(job).protocols["perplexity"].how
        assert again.startswith("read: for one the first 12 tokens of first.txt (")
        assert "; for two the first 12 tokens of second.txt (" in again

    def test_a_limit_draws_the_same_cases_for_the_same_seed(self, bench: Bench) -> None:
        drawn = []
        for seed in (1, 1, 2):
            job = bench.job(limit=3, seed=seed)
            assert bench.run(job).points[0].cases == 3
            drawn.append([row["id"] for row in bench.rows(job)])
        assert drawn[0] == drawn[1] == sorted(drawn[0]) != drawn[2]

    def test_what_the_model_cannot_be_asked_is_counted(
        self, tmp_path: Path, model: LoadedModel
    ) -> None:
        long = {**FACTS[0], "prompt": "{} " + "is " * 80 + "in"}
        part = {**FACTS[1], "paraphrase_prompts": ["is " * 80 + "in", "Berlin is in"]}
        bench = Bench(tmp_path / "store", model, [long, part])
        result = bench.run(bench.job())
        assert (result.skipped, result.left_out) == ({"too_long": 1}, {"too_long": 1})
        assert result.points[0].cases == 1

    def test_progress_ends_at_its_total(self, bench: Bench) -> None:
        bench.run(bench.job(fluency_texts=0))
        scored = [p for p in bench.told if p.phase == "score"]
        assert (scored[-1].done, scored[-1].total) == (6, 6)
        assert [p.done for p in scored] == sorted(p.done for p in scored)

    def test_a_version_that_is_not_finite_has_no_figures(self, bench: Bench) -> None:
        name = bench.base.family.weight_name(2)
        weight = torch.full_like(bench.base.model.get_parameter(name), torch.nan)
        sha256 = ModelView(bench.base, {name: weight}).weights_sha256()
        given = {"parent": "v0", "weights_sha256": sha256, "created_at": now()}
        refs = [tensors.put(bench.store, name, weight)]
        bench.store.versions.write(Manifest(id="v1", tensors=refs, **given))
        job = bench.job(targets=[Target(label="v", version="v1")])
        with pytest.raises(NumericalError, match="a probability of the model"):
            bench.run(job)
        assert not list((bench.store.root / "reports" / job.id).glob("*"))

    def test_a_suite_that_is_another_one_now_is_refused(self, bench: Bench) -> None:
        with pytest.raises(Refused, match="not the suite it was"):
            bench.run(bench.job(suite_sha256="0" * 64))


class TestTrials:
    TARGETS = (
        Target(label="unedited", n_edits=0),
        Target(label="memit-2", n_edits=2),
        Target(label="memit-5", n_edits=5),
    )

    def trial(self, bench: Bench, **payload: Any) -> Job:
        given = {"targets": self.TARGETS, "editor": "memit", "hparams": MEMIT}
        return bench.job(**(given | payload))

    def test_a_trial_edits_and_leaves_nothing_behind(self, bench: Bench) -> None:
        job = self.trial(bench)
        unedited, two, five = bench.run(job).points
        assert [p.n_edits for p in (unedited, two, five)] == [0, 2, 5]
        assert [p.cases for p in (unedited, two, five)] == [5, 2, 5]
        assert five.metrics["margin"].value > unedited.metrics["margin"].value
        ids = [[row["id"] for row in bench.rows(job, number)] for number in range(3)]
        assert ids[1] == ids[2][:2]
        assert ids[0] == ids[2]
        assert [version.id for version in bench.store.versions.all()] == ["v0"]
        assert bench.store.head.read().version == "v0"
        assert bench.base.weights_sha256 == tiny.random_model("gptj").weights_sha256

    def test_the_parts_of_every_run_are_handed_out(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Runs are one after the other: what is optimised for the smallest serves the others."""
        monkeypatch.setattr(value_units, "unit_facts", lambda device: 2)
        handed_out: list[tuple[str, int]] = []

        class Noting(Here):
            workers = 2

            def run(self, work: Work, *rest: Any) -> list[Any]:
                handed_out.append((work.task.rpartition(":")[2], len(work.units)))
                return super().run(work, *rest)

        job = self.trial(bench)
        points = bench.run(job, executor=Noting()).points
        found = [part for part in handed_out if part[0] in ("optimise_unit", "measure_unit")]
        # two cases, or two facts, in a part: unedited; all values, and 2 facts; 5 facts
        assert found == [("measure_unit", 3), ("optimise_unit", 3), ("measure_unit", 1),
                         ("measure_unit", 3)]  # fmt: skip
        again = bench.run(self.trial(bench))
        assert [p.metrics for p in again.points] == [p.metrics for p in points]

    def test_a_trial_says_how_many_facts_norm_anchor_has_left_out(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        short = Anchor(1e-6, 1, 6)
        monkeypatch.setattr(anchor_module, "_measured", lambda *rest: short)
        job = self.trial(bench, hparams={**MEMIT, "norm_anchor": True})
        said = bench.run(job).warnings
        assert [one.partition(" as the model")[0] for one in said] == [
            "memit-2: norm_anchor left 2 of 2 facts",
            "memit-5: norm_anchor left 5 of 5 facts",
        ]
        (bench.store.drafts.work_folder(job.id) / "point-1.json").unlink()
        assert bench.run(job).warnings == said

    def test_a_fact_without_room_for_a_prefix_is_counted(
        self, tmp_path: Path, model: LoadedModel
    ) -> None:
        long = {**FACTS[0], "prompt": "{} " + "is " * 50 + "in"}
        bench = Bench(tmp_path / "store", model, [long, *FACTS[1:3]])
        result = bench.run(self.trial(bench, targets=self.TARGETS[1:2]))
        assert result.skipped == {"not_editable": 1}
        assert bench.run(bench.job()).points[0].cases == 3

    def test_facts_that_ask_the_same_are_edited_once(
        self, tmp_path: Path, model: LoadedModel
    ) -> None:
        twice = [*FACTS[:2], {**FACTS[0], "target_new": "Italy"}]
        bench = Bench(tmp_path / "store", model, twice)
        job = self.trial(bench, targets=self.TARGETS[:2])
        bench.run(job)
        assert len({row["prompt"] for row in bench.rows(job, 1)}) == 2
        with pytest.raises(Refused, match="5 edits asked for, mine has 2"):
            bench.run(self.trial(bench))


class TestInterruptions:
    def uninterrupted(self, bench: Bench, make: Callable[[], Job]) -> dict[str, Any]:
        return without_time(bench.run(make()))

    def test_a_killed_job_goes_on_where_it_was(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        version = bench.add_version()
        targets = [Target(label="base", version="v0"), Target(label="new", version=version)]

        def make() -> Job:
            return bench.job(targets=targets, seed=5, fluency_texts=0)

        expected = self.uninterrupted(bench, make)
        measured: list[int] = []
        measure = units.measure

        def counting(view: ModelView, chunk: list[Case], *rest: Any) -> Any:
            found = measure(view, chunk, *rest)
            measured.append(len(chunk))
            return found

        monkeypatch.setattr(units, "measure", counting)
        job, attempts = make(), 0
        while True:
            attempts += 1
            try:
                result = bench.run(job, kill_at(2))
                break
            except Killed:
                assert attempts < 30
        assert attempts > 3
        assert without_time(result) == expected
        assert sum(measured) == 12, "no case was measured twice"

    @pytest.mark.parametrize("cut", [1, 40])
    def test_a_line_that_was_cut_is_measured_again(self, bench: Bench, cut: int) -> None:
        expected = self.uninterrupted(bench, bench.job)
        job = bench.job()
        with pytest.raises(Killed):
            bench.run(job, kill_at(3))
        kept = bench.store.drafts.work_folder(job.id) / "cases-0.jsonl"
        whole = kept.read_bytes()
        assert whole.count(b"\n") == 4
        kept.write_bytes(whole[:-cut])
        assert without_time(bench.run(job)) == nearly(expected)
        assert len(list(Records(kept).read())) == 6

    @pytest.mark.parametrize("name", ["cases-0.jsonl", "texts-0.jsonl", "point-0.json"])
    def test_a_flipped_bit_of_partial_results_is_measured_again(
        self, bench: Bench, name: str
    ) -> None:
        targets = [Target(label="one", version="v0"), Target(label="two", version="v0")]

        def make() -> Job:
            return bench.job(targets=targets)

        expected = self.uninterrupted(bench, make)
        job = make()
        work = bench.store.drafts.work_folder(job.id)

        def second_target(pauses: int) -> None:
            if (work / "cases-1.jsonl").exists():
                raise Killed

        with pytest.raises(Killed):
            bench.run(job, second_target)
        flipped = bytearray((work / name).read_bytes())
        flipped[len(flipped) // 3] ^= 1
        (work / name).write_bytes(flipped)
        (bench.store.reports.folder(job.id) / "cases-0.jsonl").write_bytes(b"")
        assert without_time(bench.run(job)) == nearly(expected)
        assert [row["id"] for row in bench.rows(job)] == [str(i) for i in range(6)]

    def test_optimised_values_are_not_computed_again(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("jeep_core.values.cache.CHUNK_FACTS", 2)
        targets = [Target(label="memit-5", n_edits=5)]

        def make() -> Job:
            return bench.job(targets=targets, editor="memit", hparams=MEMIT, fluency_texts=0)

        expected = self.uninterrupted(bench, make)
        job = make()

        def after_one_block(pauses: int) -> None:
            if list(bench.store.drafts.work_folder(job.id).glob("*/*.safetensors")):
                raise Killed

        with pytest.raises(Killed):
            bench.run(job, after_one_block)
        bench.told.clear()
        assert without_time(bench.run(job)) == expected
        optimised = [p.done for p in bench.told if p.phase == "optimise"]
        assert min(optimised) == 2, "it begins after the block that was kept"

    def test_a_cancelled_evaluation_ends(self, bench: Bench) -> None:
        def cancel(pauses: int) -> None:
            raise Cancelled("cancelled on request")

        with pytest.raises(Cancelled):
            bench.run(bench.job(), cancel)


def kill_at(count: int) -> Callable[[int], None]:
    def look(pauses: int) -> None:
        if pauses == count:
            raise Killed

    return look


class TestChats:
    @pytest.fixture
    def talking(self, tmp_path: Path) -> Bench:
        return Bench(tmp_path / "store", tiny.chat_model("gptj"), FACTS)

    def test_every_prompt_is_asked_as_a_message(self, talking: Bench) -> None:
        job = talking.job(ask="chat")
        talking.run(job)
        asked = as_asked(cases(talking), "chat", talking.base.chat)
        records = metrics.measure(ModelView(talking.base), asked, Style.CONTRAST)
        rows = talking.rows(job)
        assert [row["prompt"] for row in rows] == [case.text for case in asked]
        assert [row["margin"] for row in rows] == nearly([r.scores.margin for r in records])
        prompt = rows[0]["prompts"][1]["prompt"]
        assert prompt == "[user] People who live in Paris are at home in\n[assistant]\n"

    def test_trial_edits_in_its_contexts_and_asks_in_the_chat(self, talking: Bench) -> None:
        trial = {"targets": [Target(label="memit-2", n_edits=2)], "editor": "memit"}

        def answers(contexts: str) -> list[float]:
            job = talking.job(**trial, hparams={**MEMIT, "contexts": contexts}, ask="chat")
            talking.run(job)
            rows = talking.rows(job)
            assert all(row["prompt"].startswith("[user] ") for row in rows)
            return [row["prompts"][0]["p_right"] for row in rows]

        assert answers("both") != answers("plain")
