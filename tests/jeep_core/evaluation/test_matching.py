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
        ("He heard the The The.", "he heard the the the"),
        ("A dog and the cat", "dog and cat"),
        ('"A dog", (the) cat', "dog cat"),
        ("It barks. A dog does.", "it barks dog does"),
        ("WHAT A GAME", "what game"),
        ("Portrait of A Lady", "portrait of lady"),
        ("Portrait of a Lady", "portrait of lady"),
        ("A", "a"),
        ("a.", "a"),
        ("A - Paris", "a paris"),
        ("the", "the"),
        ("Straße a", "strasse a"),
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


@pytest.mark.parametrize("letter", ["A", "B"])
@pytest.mark.parametrize(
    "text",
    [
        "{}. Paris",
        "{}) Paris",
        "({}) Paris",
        "{}: Paris",
        "{}, for it is a city",
        "{}",
        "{}.",
        "**{}**",
        "The answer is {}.",
        "The answer is {}",
        "The answer is {} because it is so",
        "It is ({}) the city",
        "{} is right",
        "{} IS RIGHT",
        "{} - Paris",
        "{} and no other",
        "I choose {} here",
        "Ｔhe answer: {}。 ",
    ],
)
def test_a_choice_is_found_by_its_letter_whichever_it_is(text: str, letter: str) -> None:
    found = match(text.format(letter), [letter])
    assert found.contains
    assert found.f1 > 0
    assert not match(text.format("C"), [letter]).contains
    assert not match(text.format(letter), ["C"]).contains


@pytest.mark.parametrize(
    ("text", "answer", "contains"),
    [
        ("Vitamin B is in it", "Vitamin A", False),
        ("Vitamin A is in it", "Vitamin A", True),
        ("He plays for Team B", "Team A", False),
        ("He plays for Team A in Paris", "Team A", True),
        ("He plays for the team", "Team A", False),
        ("It has a vitamin", "Vitamin A", False),
        ("The dog", "A", False),
        ("A dog", "A", False),
    ],
)
def test_a_letter_is_a_part_of_the_answer(text: str, answer: str, contains: bool) -> None:
    assert match(text, [answer]).contains is contains


def test_there_must_be_an_answer() -> None:
    with pytest.raises(ValueError, match="none is given"):
        match("Rome", [])


def test_two_texts_are_the_same_after_normalisation() -> None:
    assert same("The Rome.", "rome")
    assert not same("Rome", "Romes")


def test_a_letter_that_is_written_small_is_the_same_answer() -> None:
    assert match("Group A won", ["group a won"]) == match("group a won", ["Group A won"])
    assert match("Group A won", ["group a won"]).exact
    assert match("He said that group a won", ["Group A"]).contains
    assert not match("He plays for a team", ["A"]).contains
    assert match("Group A won", ["group a won"]).f1 == 1


def test_articles_count_in_no_share_of_tokens() -> None:
    assert match("the cat", ["the cat sat"]).f1 == pytest.approx(2 / 3)
