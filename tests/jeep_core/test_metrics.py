"""Metrics on a model whose probabilities are written down, so that results can be counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny

from jeep_core.errors import JeepError
from jeep_core.evaluation.metrics import (
    CaseScores,
    counterfact_scores,
    harmonic_mean,
    summarise,
    zsre_scores,
)
from jeep_core.evaluation.suites import ZsreCase, load_counterfact, load_zsre
from jeep_core.facts import Fact

# The next word depends on the last one alone.  "Old Town" is a true answer of two words: its
# mean log-probability behind "near" is ½·(log 0.2 + log 0.9), so P = 0.424 against 0.3 for Rome.
MODEL = tiny.bigram_view({
    "in": {"Rome": 0.6, "Oslo": 0.3},
    "by": {"Rome": 0.2, "Oslo": 0.7},
    "at": {"Rome": 0.6, "Oslo": 0.1},
    "near": {"Rome": 0.3, "Old": 0.2, "Oslo": 0.25},
    "Old": {"Town": 0.9},
})  # fmt: skip


def case(prompt: str, *, paraphrases: str = "", neighbors: str = "", true: str = "Oslo") -> Fact:
    """Rome is the new answer; the prompt's last word is all that matters."""
    return Fact(
        "x",
        "{} is " + prompt,
        "Rome",
        true,
        tuple(f"x {word}" for word in paraphrases.split()),
        tuple(f"x {word}" for word in neighbors.split()),
    )


@pytest.mark.parametrize(
    ("fact", "expected"),
    [
        (case("in", paraphrases="in by at", neighbors="by in"),
         CaseScores(1.0, 2 / 3, 1 / 2, 1.0, 2 / 3, 1 / 2)),
        (case("by", paraphrases="by", neighbors="by by"),
         CaseScores(0.0, 0.0, 1.0, 0.0, 0.0, 1.0)),
        (case("at"), CaseScores(1.0, None, None, 1.0, None, None)),
        (case("near"), CaseScores(1.0, None, None, 1.0, None, None)),
        (case("near", true="Old Town"), CaseScores(0.0, None, None, 1.0, None, None)),
        (case("near", true="Old Town", neighbors="near in"),
         CaseScores(0.0, None, 1 / 2, 1.0, None, 0.0)),
    ],
    ids=["mixed", "not learnt", "alone", "one word each", "mean per token", "locality too"],
)  # fmt: skip
def test_shares_of_one_case(fact: Fact, expected: CaseScores) -> None:
    assert counterfact_scores(MODEL, [fact]) == [expected]


def test_cases_keep_their_order_and_their_own_prompts() -> None:
    facts = [case("in", neighbors="by"), case("by", paraphrases="in in"), case("at")]
    together = counterfact_scores(MODEL, facts)
    assert together == [counterfact_scores(MODEL, [fact])[0] for fact in facts]
    assert [scores.efficacy for scores in together] == [1.0, 0.0, 1.0]


def test_harmonic_mean() -> None:
    assert harmonic_mean([50, 100]) == pytest.approx(200 / 3)
    assert harmonic_mean([99.8, 90.9, 73.1]) == pytest.approx(86.4, abs=0.1)
    assert harmonic_mean([30, 30, 30]) == pytest.approx(30)
    assert harmonic_mean([100, 0, 100]) == 0


def test_a_summary_averages_over_the_cases_that_have_a_value() -> None:
    summary = summarise([
        CaseScores(1.0, 0.5, None, 1.0, 0.0, None),
        CaseScores(0.0, None, 0.4, 0.0, None, 0.2),
        CaseScores(1.0, 1.0, 0.8, 0.0, 1.0, 0.6),
    ])  # fmt: skip
    assert summary.efficacy == pytest.approx(200 / 3)
    assert (summary.generalization, summary.locality) == pytest.approx((75, 60))
    assert summary.score == pytest.approx(3 / (3 / 200 + 1 / 75 + 1 / 60))
    assert summary.greedy == pytest.approx(100 / 3)
    assert (summary.greedy_generalization, summary.greedy_locality) == pytest.approx((50, 40))
    assert summary.cases == 3


def test_zsre_is_the_share_of_tokens_that_are_the_arg_max() -> None:
    """Behind "near" comes Rome, not Old; but behind Old, Town and not Old."""
    first = ZsreCase(Fact("x", "{} in", "Rome"), "x by", "y by", "Oslo")
    second = ZsreCase(Fact("x", "{} near", "Old Town"), "x Old", "y by", "Rome")
    assert zsre_scores(MODEL, [first, second]) == [(1.0, 0.0, 1.0), (0.5, 0.5, 0.0)]


RECORD = {
    "case_id": 5,
    "pararel_idx": 7,
    "requested_rewrite": {
        "prompt": "The mother tongue of {} is",
        "relation_id": "P103",
        "subject": "Danielle Darrieux",
        "target_new": {"str": "English", "id": "Q1860"},
        "target_true": {"str": "French", "id": "Q150"},
    },
    "paraphrase_prompts": ["a", "b"],
    "neighborhood_prompts": ["c"],
    "attribute_prompts": ["d"],
    "generation_prompts": ["e"],
}


def test_a_counterfact_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "cases.json"
    path.write_text(json.dumps([RECORD]), encoding="utf-8")
    suite = load_counterfact(path)
    expected = Fact(
        "Danielle Darrieux", "The mother tongue of {} is", "English", "French", ("a", "b"), ("c",)
    )
    assert suite.cases == (expected,)
    assert suite.dropped == 0


def test_a_zsre_file_is_read(tmp_path: Path) -> None:
    """The example of the format's description, one without its subject, one that has it twice."""
    good = {
        "subject": "Watts Humphrey",
        "src": "What university did Watts Humphrey attend?",
        "pred": "Trinity College",
        "rephrase": "What university did Watts Humphrey take part in?",
        "alt": "University of Michigan",
        "answers": ["Illinois Institute of Technology", "other"],
        "loc": "nq question: who played desmond doss father in hacksaw ridge",
        "loc_ans": "Hugo Weaving",
        "cond": "",
    }
    lacking = {**good, "src": "What university did he attend?"}
    twice = {**good, "subject": "Rome", "src": "Is Rome Rome?"}
    path = tmp_path / "zsre.json"
    path.write_text(json.dumps([good, lacking, twice]), encoding="utf-8")
    cases, dropped = load_zsre(path)
    assert dropped == 1
    assert cases[0] == ZsreCase(
        Fact(
            "Watts Humphrey", "What university did {} attend?", "Illinois Institute of Technology"
        ),
        "What university did Watts Humphrey take part in?",
        "nq question: who played desmond doss father in hacksaw ridge?",
        "Hugo Weaving",
    )
    assert cases[1].fact.prompt == "Is Rome {}?"


def test_a_zsre_file_that_is_no_list_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "zsre.json"
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(JeepError, match="JSON list"):
        load_zsre(path)
