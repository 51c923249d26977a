"""Answers written freely, and their judgement."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.library import tiny

from jeep_core.decoding.generation import generate
from jeep_core.decoding.rows import Row
from jeep_core.decoding.sampling import Choice, Sampling
from jeep_core.evaluation.free_answers import (
    FreeText,
    free_prompts,
    free_scores,
    judged_freely,
    measure_freely,
    write_freely,
)
from jeep_core.evaluation.protocols import Setting, protocols
from jeep_core.evaluation.statistics import FREE, METRICS, compare, summarise_cases
from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView
from jeep_core.suites import Case, Question, Style

CASE = Case(
    subject="Lyon",
    prompt="{} is in",
    target_new="Japan",
    target_true="France",
    paraphrase_prompts=("Lyon lies in", "Lyon belongs to"),
    neighborhood_prompts=("Paris is in",),
    unrelated=(Question("Rome is in", "Italy"),),
    portability=(Question("In Lyon one speaks", "Japanese", ("Nihongo",)),),
    target_aliases=("Nippon",),
    id="0",
)


def text(said: str) -> FreeText:
    return FreeText(said, "sentence")


SAID = {
    "Lyon is in": text("the Japan."),
    "Lyon lies in": text("Nippon, of course."),
    "Lyon belongs to": text("France."),
    "Paris is in": text("france"),
    "Rome is in": text("Spain."),
    "In Lyon one speaks": text("nihongo"),
}
BEFORE = {"Paris is in": text("France."), "Rome is in": text("Italy.")}


def test_a_case_is_judged_by_kind_of_prompt() -> None:
    found = judged_freely(CASE, SAID, BEFORE)
    assert [one.kind for one in found] == [one.kind for one in free_prompts(CASE)]
    scores = free_scores(found)
    assert set(scores) == set(FREE)
    assert {name: value for name, value in scores.items() if value is not None} == {
        "free_exact": 1.0, "free_f1": 1.0, "free_contains": 1.0,
        "free_exact_generalization": 0.0,
        "free_f1_generalization": pytest.approx((2 * 1 / (3 + 1) + 0) / 2),
        "free_contains_generalization": 0.5,
        "free_exact_portability": 1.0, "free_f1_portability": 1.0, "free_contains_portability": 1.0,
        "free_kept": 0.5, "free_f1_locality": 0.5,
    }  # fmt: skip


def test_neighbors_are_compared_with_their_right_answers_where_these_are_known() -> None:
    """Beside what the base model writes: it may be wrong, and another wrong answer is no harm."""
    unknown = replace(CASE, target_true=None)
    found = [one for one in judged_freely(unknown, SAID, BEFORE) if one.kind == "neighbor"]
    assert [(one.kept, one.f1, one.judge) for one in found] == [
        (True, None, None),
        (False, 0.0, None),
    ]
    verdicts = {
        ("Paris is in", ("France",), "france"): True,
        ("Rome is in", ("Italy",), "Spain."): False,
    }
    scores = free_scores(judged_freely(CASE, SAID, BEFORE, verdicts))
    assert (scores["free_f1_locality"], scores["judge_locality"]) == (0.5, 0.5)
    rows = [{"id": str(i), **scores} for i in range(4)]
    summary = summarise_cases(rows)
    for name in ("free_f1_locality", "judge_locality"):
        assert (summary[name].value, summary[name].cases) == (50.0, 4)


def test_groups_of_what_follows_are_judged_apart() -> None:
    first, second = (
        Question(prompt, "Japanese", group=group)
        for prompt, group in (("In Lyon one speaks", "language"), ("Rome is in", "place"))
    )
    found = judged_freely(replace(CASE, portability=(first, second)), SAID, BEFORE)
    assert {one.group for one in found} == {"", "language", "place"}
    scores = free_scores(found)
    for rule in ("exact", "f1", "contains"):
        name = f"free_{rule}_portability"
        assert (scores[f"{name}/language"], scores[f"{name}/place"]) == (0.0, 0.0)
    assert not any(name.startswith("judge_portability/") for name in scores)
    said = {**SAID, "In Lyon one speaks": text("Japanese, they say")}
    verdicts = {
        ("In Lyon one speaks", ("Japanese",), "Japanese, they say"): True,
        ("Rome is in", ("Japanese",), "Spain."): None,
    }
    asked = replace(CASE, portability=(first, second))
    scores = free_scores(judged_freely(asked, said, BEFORE, verdicts))
    assert scores["free_f1_portability/language"] == 0.5
    assert scores["free_contains_portability/language"] == 1.0
    assert scores["free_contains_portability"] == 0.5
    assert scores["judge_portability/language"] == 1.0
    assert "judge_portability/place" not in scores, "it was never clear"
    rows = [{"id": str(i), **scores} for i in range(4)]
    summary = summarise_cases([*rows, {"id": "4", "judge_portability/place": 1.0}])
    assert (
        summary["free_f1_portability/language"].value,
        summary["free_f1_portability/language"].cases,
    ) == (50.0, 4)
    assert summary["judge_portability/language"].low == 100.0
    name = "free_exact_portability/language"
    protocol = protocols([name], Setting("mine", Style.ACCURACY))[name]
    assert protocol.asked.endswith("those in language of the data set")


def test_a_judge_s_verdicts_count_beside_the_rules_and_unclear_ones_do_not() -> None:
    right = (CASE.target_new, *CASE.target_aliases)
    verdicts = {
        ("Lyon is in", right, "the Japan."): False,
        ("Lyon is in", ("France",), "the Japan."): True,
        ("Lyon lies in", right, "Nippon, of course."): True,
        ("Lyon belongs to", right, "France."): None,
    }
    scores = free_scores(judged_freely(CASE, SAID, BEFORE, verdicts))
    assert (scores["judge"], scores["judge_generalization"]) == (0.0, 1.0)
    assert scores["judge_portability"] is None
    assert scores["free_exact"] == 1.0


def test_free_figures_have_intervals_and_change_cases() -> None:
    rows = [
        {"id": str(i), "prompt": "p", "free_exact": float(i % 2), "free_kept": 1.0}
        for i in range(8)
    ]
    assert summarise_cases(rows)["free_exact"].value == 50.0
    after = [{**row, "free_exact": 1.0, "free_kept": float(row["id"] != "0")} for row in rows]
    found = compare(rows, after)
    assert found.differences["free_exact"].value == 50.0
    assert [change.id for change in found.better] == ["0", "2", "4", "6"]
    assert [(change.id, set(change.metrics)) for change in found.broken] == [("0", {"free_kept"})]


def test_every_metric_has_a_protocol() -> None:
    setting = Setting("mine", Style.CONTRAST, "chat", 24, "gpt-x")
    names = [*METRICS, "score", "perplexity"]
    found = protocols(names, setting)
    assert list(found) == names
    for one in found.values():
        assert all(vars(one).values())
    assert "24 tokens" in found["free_f1_portability"].how
    assert "message of a chat" in found["free_exact"].how
    assert "follows" in found["judge_portability"].asked
    assert "gpt-x" in found["judge_generalization"].judged
    assert "neighbors" in found["free_kept"].asked
    assert found["judge_locality"].asked.endswith("that have a right answer")
    assert "F1" in found["free_f1_locality"].judged
    assert "rephrasings" in found["margin_generalization"].asked
    assert "more probable" in found["efficacy"].judged
    shown = protocols(["efficacy"], Setting("mine", Style.ACCURACY))["efficacy"]
    assert "share of its tokens" in shown.judged
    assert "plain text" in shown.how


class TestWriting:
    def test_answers_are_greedy_and_written_once(self, gptj: LoadedModel) -> None:
        prompts = [one[:24] for one in tiny.TEXTS[:3]]
        found = write_freely(ModelView(gptj), [*prompts, prompts[0]], tokens=6)
        assert list(found) == list(dict.fromkeys(prompts))
        plain = generate(ModelView(gptj), prompts, Sampling(6))
        for prompt, whole in zip(prompts, plain, strict=True):
            assert whole.text.lstrip().startswith(found[prompt].text)

    def test_a_prompt_that_leaves_no_room_has_a_short_answer(self, gptj: LoadedModel) -> None:
        long = "the " * gptj.max_positions
        [one] = write_freely(ModelView(gptj), [long[: gptj.max_positions // 2]], 10**6).values()
        assert one.ended in ("limit", "sentence", "end of text")

    def test_writing_ends_after_the_first_sentence(self, gptj: LoadedModel) -> None:
        row = Row(gptj, "Lyon is in", Sampling(64, sentence=True))
        for id in gptj.tokenizer.encode(" Japan. It is in Asia").ids:
            if row.finished:
                break
            row.add(Choice(id, 0.0))
        assert row.result.finish_reason == "stop"
        assert "Japan. I" in row.result.text
        assert "Asia" not in row.result.text

    def test_neighbors_are_compared_with_the_base_model(self, gptj: LoadedModel) -> None:
        name = gptj.family.weight_name(0)
        base = ModelView(gptj)
        changed = ModelView(gptj, {name: -40 * gptj.model.get_parameter(name)})
        case = Case(
            subject="Lyon", prompt="{} is in", target_new="Japan",
            neighborhood_prompts=("Paris is in", "The capital of Japan is", "Oslo is a city"),
        )  # fmt: skip
        [same] = measure_freely(base, [case])
        assert free_scores(same)["free_kept"] == 1.0
        [other] = measure_freely(changed, [case])
        neighbors = [one for one in other if one.kind == "neighbor"]
        wrote = [one.text for one in same if one.kind == "neighbor"]
        assert [one.base_text for one in neighbors] == wrote
        assert [one.kept for one in neighbors] == [
            a.text == b for a, b in zip(neighbors, wrote, strict=True)
        ]
        assert not all(one.kept for one in neighbors)
        assert torch.equal(gptj.model.get_parameter(name), base.parameter(name))
