"""Evaluation jobs that judge free answers: what they measure, store, say and resume."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support.library import tiny
from support.service.evaluation_bench import FACTS, Bench
from support.service.outward.played_judge import PlayedJudge
from support.service.outward.played_targets import playing

from jeep_core.evaluation import free_answers
from jeep_core.evaluation.free_answers import free_scores, measure_freely, write_freely
from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView
from jeep_core.suites import Case, load_suite
from service.contracts.schemas import Target
from service.contracts.schemas.evaluation import FreeOptions, JudgeOptions
from service.worker.evaluating import free
from service.worker.failures import Refused
from service.worker.versions.views import VersionViews

FREE = FreeOptions(max_new_tokens=5)


class Killed(BaseException):
    """As a SIGKILL: nothing of the job runs after it."""


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return tiny.random_model("gptj")


@pytest.fixture
def bench(tmp_path: Path, model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(free_answers, "CASES_TOGETHER", 2)
    return Bench(tmp_path / "store", model, FACTS)


@pytest.fixture
def played() -> Iterator[PlayedJudge]:
    with playing(PlayedJudge()) as made:
        assert isinstance(made, PlayedJudge)
        yield made


def cases(bench: Bench) -> list[Case]:
    return list(load_suite(bench.store.suites.path("mine")).cases)


def test_free_answers_are_measured_as_the_library_measures_them(bench: Bench) -> None:
    version = bench.add_version()
    targets = [Target(label="base", version="v0"), Target(label="new", version=version)]
    job = bench.job(targets=targets, free=FREE)
    base, new = bench.run(job).points
    assert base.metrics["free_kept"].value == 100.0
    views = {0: ModelView(bench.base), 1: ModelView(bench.base, _tensors(bench, version))}
    for number, point in enumerate((base, new)):
        expected = measure_freely(views[number], cases(bench), tokens=5)
        rows = bench.rows(job, number)
        for row, judged in zip(rows, expected, strict=True):
            assert [one["text"] for one in row["free"]] == [one.text for one in judged]
            assert {n: row[n] for n in free_scores(judged)} == free_scores(judged)
        assert point.metrics["free_f1"].cases == 6
        assert "judge" not in point.metrics
    assert new.metrics["free_kept"].value < 100.0
    assert any(phase.phase == free.PHASE for phase in bench.told)
    assert any(phase.phase == free.BASE_PHASE for phase in bench.told)


def test_without_the_field_nothing_is_written(bench: Bench) -> None:
    job = bench.job()
    result = bench.run(job)
    assert not any(name.startswith("free") for name in result.points[0].metrics)
    assert "free" not in bench.rows(job)[0]


def test_a_result_says_of_every_figure_how_it_came_about(bench: Bench) -> None:
    result = bench.run(bench.job(free=FREE))
    assert set(result.protocols) == set(result.points[0].metrics)
    assert "5 tokens" in result.protocols["free_exact"].how
    assert "mine" in result.protocols["efficacy"].how
    assert result.judge is None


def test_the_base_model_writes_every_neighbor_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def counted(view: ModelView, prompts: list[str], *rest: object) -> object:
        if not view.replaced:
            asked.append(list(prompts))
        return write_freely(view, prompts, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(free_answers, "write_freely", counted)
    version = bench.add_version()
    targets = [Target(label=name, version=version) for name in ("one", "two")]
    bench.run(bench.job(targets=targets, free=FREE))
    written = [prompt for prompts in asked for prompt in prompts]
    assert len(written) == len(set(written)) == 7, "six lie somewhere, and Japan has a capital"


def test_a_job_that_was_killed_goes_on_with_the_answers_it_has(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets = [Target(label="new", version=bench.add_version())]
    whole = bench.job(targets=targets, free=FREE)
    expected = bench.run(whole)
    job, written = bench.job(targets=targets, free=FREE), []

    def dying(view: ModelView, prompts: list[str], *rest: object) -> object:
        written.append(len(prompts))
        if len(written) == 4:
            raise Killed
        return write_freely(view, prompts, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(free_answers, "write_freely", dying)
    with pytest.raises(Killed):
        bench.run(job)
    before = len(written)
    again = bench.run(job)
    assert len(written) - before < 5, "two chunks of three were left"
    assert again.points[0].metrics == expected.points[0].metrics
    assert bench.rows(job) == bench.rows(whole)


@pytest.mark.parametrize("edited", [False, True])
def test_answers_of_the_base_model_that_were_lost_are_written_again(
    bench: Bench, edited: bool
) -> None:
    version = bench.add_version() if edited else "v0"
    job = bench.job(targets=[Target(label="one", version=version)], free=FREE)
    expected = bench.run(job)
    work = bench.store.drafts.work_folder(job.id)
    for name in ("point-0.json", "free-0.jsonl"):
        (work / name).unlink()
    texts = work / "base-texts.jsonl"
    texts.write_bytes(texts.read_bytes()[:-1])
    assert bench.run(job).points[0].metrics == expected.points[0].metrics


def test_a_judge_is_asked_of_every_prompt_with_a_right_answer(
    bench: Bench, played: PlayedJudge
) -> None:
    played.say = lambda question: "yes" if question["question"].startswith("People") else "hm"
    judge = JudgeOptions(model="gpt-x", address=played.address, timeout_s=5.0)
    result = bench.run(bench.job(free=FREE.model_copy(update={"judge": judge})))
    [point] = result.points
    assert point.metrics["judge_generalization"].value == 100.0
    assert "judge" not in point.metrics, "it was never clear"
    assert "judge_locality" not in point.metrics, "nor there"
    assert 12 < len(played.asked) <= 24, "of neighbors that are alike it is asked once"
    assert result.judge is not None
    assert (result.judge.answers, result.judge.unclear) == (24, 18)
    played.say = lambda question: "yes" if "Norway" in question["right_answers"] else "no"
    again = bench.run(bench.job(free=FREE.model_copy(update={"judge": judge})))
    assert again.points[0].metrics["judge_locality"].value == 100.0
    assert again.points[0].metrics["judge"].value == 0.0
    assert set(again.protocols) == set(again.points[0].metrics)
    assert "gpt-x" in result.protocols["judge_generalization"].judged


def test_cases_with_one_question_and_other_answers_have_verdicts_of_their_own(
    bench: Bench, played: PlayedJudge
) -> None:
    """In one unit, so that both are asked about the same text."""
    one = {"subject": "Paris", "prompt": "{} is in", "target_true": "France"}
    bench.add("two", [{**one, "target_new": "Peru"}, {**one, "target_new": "Norway"}])
    played.say = lambda question: "yes" if question["right_answers"] == ["Peru"] else "no"
    options = JudgeOptions(model="gpt-x", address=played.address, timeout_s=5.0)
    sha256 = bench.store.suites.get("two").sha256
    asked = FREE.model_copy(update={"judge": options})
    job = bench.job(suite="two", suite_sha256=sha256, free=asked)
    bench.run(job)
    assert [row["judge"] for row in bench.rows(job)] == [1.0, 0.0]


def test_a_judge_that_fails_ends_the_job(bench: Bench, played: PlayedJudge) -> None:
    played.broken = (400, {"error": "no such model"})
    judge = JudgeOptions(model="gpt-x", address=played.address, timeout_s=5.0)
    with pytest.raises(Refused, match="no such model") as caught:
        bench.run(bench.job(free=FREE.model_copy(update={"judge": judge})))
    assert caught.value.code == "judge_failed"


def test_answers_are_kept_while_a_judge_is_away(
    bench: Bench, played: PlayedJudge, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []

    def counted(view: ModelView, prompts: list[str], *rest: object) -> object:
        written.append(len(prompts))
        return write_freely(view, prompts, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(free_answers, "write_freely", counted)
    judge = JudgeOptions(model="gpt-x", address=played.address, timeout_s=5.0)
    job = bench.job(free=FREE.model_copy(update={"judge": judge}))
    played.broken = (400, {"error": "no such model"})
    with pytest.raises(Refused):
        bench.run(job)
    before, played.broken = len(written), None
    bench.run(job)
    assert before == len(written) == 3


def _tensors(bench: Bench, version: str) -> dict[str, torch.Tensor]:
    return dict(VersionViews(bench.base, bench.store).get(version).replaced)
