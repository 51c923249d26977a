"""Answers with aliases, measured on a model whose probabilities are written down."""

from __future__ import annotations

import pytest
from support.library import tiny

from jeep_core.evaluation.metrics import fitting, measure
from jeep_core.suites import Case, Question, Style

MODEL = tiny.bigram_view({
    "in": {"Rome": 0.6, "Oslo": 0.3},
    "by": {"Rome": 0.2, "Oslo": 0.7},
    "at": {"Rome": 0.6, "Oslo": 0.1},
    "on": {"Old": 0.8, "Rome": 0.1},
    "Old": {"Town": 0.9},
})  # fmt: skip


def test_the_best_alias_counts_in_contrast_style() -> None:
    """After "by" Rome has 0.2 and its alias Oslo 0.7; after "in" the true answer's alias wins."""
    fact = Case("x", "{} by", "Rome", "Town", target_aliases=("Oslo",))
    [record] = measure(MODEL, [fact], Style.CONTRAST)
    [prompt] = record.prompts
    assert (record.scores.efficacy, record.scores.greedy) == (1.0, 1.0)
    assert (prompt.right, prompt.p_right) == ("Oslo", pytest.approx(0.7, abs=1e-3))
    held = Case("x", "{} in", "Oslo", "Town", true_aliases=("Rome",))
    [record] = measure(MODEL, [held], Style.CONTRAST)
    assert record.scores.efficacy == 0.0
    assert record.prompts[0].p_other == pytest.approx(0.6, abs=1e-3)


def test_the_best_alias_counts_in_accuracy_style_too() -> None:
    """Oslo is not the arg-max after "in", Rome is; neither is after "on"."""
    questions = (Question("x in", "Oslo", ("Rome",)), Question("x on", "Oslo", ("Rome",)))
    fact = Case("x", "{} in", "Rome", unrelated=questions, portability=questions[:1])
    [record] = measure(MODEL, [fact], Style.ACCURACY)
    assert (record.scores.locality, record.scores.greedy_locality) == (0.5, 0.5)
    assert record.scores.portability == 1.0
    assert [prompt.right for prompt in record.prompts[1:]] == ["Rome", "Rome", "Rome"]


def test_neighbors_are_held_against_every_alias_of_the_new_answer() -> None:
    question = (Question("x in", "Oslo"),)
    fact = Case("x", "{} at", "Town", "Bonn", target_aliases=("Rome",), unrelated=question)
    [record] = measure(MODEL, [fact], Style.CONTRAST)
    assert record.scores.locality == 0.0
    assert record.prompts[1].p_other == pytest.approx(0.6, abs=1e-3)


def test_aliases_that_cannot_be_asked_are_left_out_alone() -> None:
    question = Question("x in", "Rome", (" ", "Oslo"))
    fact = Case("x", "{} in", "Rome", "Oslo", unrelated=(question,), target_aliases=(" ",))
    kept, skipped, left_out = fitting(MODEL.base, [fact], Style.ACCURACY)
    assert (skipped, left_out) == ({}, {"no_answer": 1})
    assert kept[0].target_aliases == ()
    assert kept[0].unrelated == (Question("x in", "Rome", ("Oslo",)),)
    assert measure(MODEL, kept, Style.ACCURACY)
