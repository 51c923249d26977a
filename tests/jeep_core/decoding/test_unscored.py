"""Answers that are scored a bounded number of tokens at a time, beside others that are decoded."""

from __future__ import annotations

from typing import Any

import pytest
from support.library import tiny

from jeep_core.decoding import asking
from jeep_core.decoding.asking import Unscored
from jeep_core.decoding.generation import score
from jeep_core.models.views import ModelView
from jeep_core.text.encoding import encode
from jeep_core.text.joining import Join

LONG = "The river is wide and the land around it is old, and people who live there are at home in"
GIVEN: list[tuple[str, list[str], Join]] = [
    (LONG, [f"country {i}" for i in range(12)] + ["Peru", "Peru, near Lima", ""], "auto"),
    ("3M's", ["tape", " tape", "s"], "none"),
    (LONG, ["Peru"], "space"),
    ("東京", ["は", "Peru"], "auto"),
]
PAIRS = [(prompt, answer, join) for prompt, answers, join in GIVEN for answer in answers]


def waiting(view: ModelView, tokens: int) -> Unscored[str]:
    """The answers of four owners."""
    found: Unscored[str] = Unscored(view, tokens)
    for owner, (prompt, answers, join) in zip("abcd", GIVEN, strict=True):
        for number, answer in enumerate(answers):
            found.add(owner, number, prompt, (answer, join))
    return found


@pytest.mark.parametrize("tokens", [1, 60, 2048])
@pytest.mark.parametrize("family", tiny.ALL_FAMILIES)
def test_scores_are_those_of_every_pair_alone(family: str, tokens: int) -> None:
    view = ModelView(tiny.random_model(family))
    some = waiting(view, tokens)
    found = []
    while len(some):
        found += some.step()
    names = [
        (o, n) for o, (_, given, _) in zip("abcd", GIVEN, strict=True) for n in range(len(given))
    ]
    scores = {(owner, number): one for owner, number, one in found}
    assert len(found) == len(scores) == len(names)
    expected = score(view, [pair[:2] for pair in PAIRS], [join for *_, join in PAIRS])
    for name, one in zip(names, expected, strict=True):
        assert (scores[name].tokens, scores[name].hits) == (one.tokens, one.hits)
        assert scores[name].log_probability == pytest.approx(one.log_probability, abs=1e-5)


@pytest.mark.parametrize("tokens", [60, 120, 400])
def test_a_step_reads_no_more_tokens_than_it_may(view: ModelView, tokens: int) -> None:
    read: list[int] = []
    backbone = view.base.family.backbone_of(view.model)
    handle = backbone.register_forward_pre_hook(
        lambda _, __, given: read.append(given["input_ids"].numel()), with_kwargs=True
    )
    some, steps = waiting(view, tokens), 0
    try:
        while len(some):
            read.clear()
            assert some.step()
            assert len(read) <= 1
            assert sum(read) <= tokens, "padding included"
            steps += 1
    finally:
        handle.remove()
    assert steps <= 2 + 600 // tokens


def test_a_prompt_that_is_longer_than_a_step_has_one_answer_in_each(view: ModelView) -> None:
    some = waiting(view, 1)
    assert [[number for _, number, _ in some.step()] for _ in range(3)] == [[0], [1], [2]]


def test_a_long_prompt_is_read_with_a_few_answers_and_alone_without_a_mask(
    view: ModelView,
) -> None:
    """A mask has the square of a prompt's tokens."""
    masked: list[bool] = []
    backbone = view.base.family.backbone_of(view.model)
    handle = backbone.register_forward_pre_hook(
        lambda _, __, given: masked.append(given.get("attention_mask") is not None),
        with_kwargs=True,
    )
    try:
        length = len(Unscored[str](view)._ids(LONG))
        counts = {tokens: len(waiting(view, tokens).step()) for tokens in (length // 8, length - 1)}
    finally:
        handle.remove()
    assert counts[length // 8] == 1, "too long for a mask"
    assert 1 < counts[length - 1] < len(GIVEN[0][1])
    assert masked == [False, True]


def test_a_step_scores_no_more_than_64_answers_that_cost_nothing(view: ModelView) -> None:
    some: Unscored[int] = Unscored(view)
    for number in range(200):  # of one token, of which nothing is run, and of none
        some.add(0, number, "3M's", ("s" if number % 2 else "", "none"))
    counts = []
    while len(some):
        counts.append(len(some.step()))
    assert counts == [64, 64, 64, 8]


def test_a_step_encodes_a_bounded_number_of_tokens(
    view: ModelView, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[int] = []

    def counted(tokenizer: Any, text: str) -> Any:
        found = encode(tokenizer, text)
        encoded.append(len(found.ids))
        return found

    monkeypatch.setattr(asking, "encode", counted)
    some: Unscored[int] = Unscored(view, 20)
    for number in range(100):
        some.add(0, number, LONG, ("s", "none"))
    while len(some):
        encoded.clear()
        assert some.step()
        assert sum(encoded) <= asking.ENCODED * 20 + 2 * max(encoded), "one at least"


def test_answers_of_owners_that_are_gone_are_not_scored(view: ModelView) -> None:
    some = waiting(view, 2048)
    some.drop({"a", "c"})
    assert {owner for owner, *_ in some.step()} == {"b", "d"}
    assert some.step() == []
