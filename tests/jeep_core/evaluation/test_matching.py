"""Answers compared after normalisation."""

from __future__ import annotations

import pytest

from jeep_core.evaluation.matching import Match, match, normalised, same


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("  The  United\tKingdom. ", "united kingdom"),
        ("“Rome”, Italy!", "rome italy"),
        ("a.k.a. An apple", "aka apple"),
        ("Straße", "strasse"),
        ("ＴＯＫＹＯ", "tokyo"),
        ("Theodore", "theodore"),
        ("東京。", "東京"),
        ("The The", "the the"),
        ("...", "..."),
        ("", ""),
    ],
)
def test_case_articles_punctuation_and_blanks_do_not_count(text: str, plain: str) -> None:
    assert normalised(text) == plain


@pytest.mark.parametrize(
    ("text", "answers", "exact", "f1", "contains"),
    [
        ("Rome.", ["Rome"], True, 1.0, True),
        ("It is the Rome, Italy", ["Rome"], False, 2 * 1 / (4 + 1), True),
        ("Nigeria", ["Niger"], False, 0.0, False),
        ("New Delhi", ["Delhi", "the new delhi"], True, 1.0, True),
        ("York is New", ["New York"], False, 2 * 2 / (3 + 2), False),
        ("Rome, Rome", ["Rome"], False, 2 * 1 / (2 + 1), True),
        ("東京は首都", ["東京"], False, 2 * 2 / (5 + 2), True),
        ("", ["Rome"], False, 0.0, False),
        ("The The", ["the the"], True, 1.0, True),
    ],
)
def test_the_answer_that_fits_best_counts(
    text: str, answers: list[str], exact: bool, f1: float, contains: bool
) -> None:
    assert match(text, answers) == Match(exact, pytest.approx(f1), contains)


def test_there_must_be_an_answer() -> None:
    with pytest.raises(ValueError, match="none is given"):
        match("Rome", [])


def test_two_texts_are_the_same_after_normalisation() -> None:
    assert same("The Rome.", "rome")
    assert not same("Rome", "Romes")
