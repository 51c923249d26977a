"""Answers from one reading of each prompt, against scoring and decoding apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from math import nan

import pytest
import torch
from support.library import tiny

from jeep_core.decoding.asking import TREE_TOKENS, Question, Told, ask
from jeep_core.decoding.generation import Decoder, Sampling, complete, score
from jeep_core.decoding.token_tree import TokenTree, padded
from jeep_core.errors import JeepError, NumericalError
from jeep_core.models.loading import LoadedModel
from jeep_core.models.masks import Attention
from jeep_core.models.views import ModelView

LONG = "The river is wide and the land around it is old, and people who live there are at home in"
PROMPTS = (
    "Paris is a city in the country of",
    "Paris is a city in the country of Peru, where",
    LONG,
    "3M's",
    "東京",
)


def questions_of(view: ModelView, written: int = 6) -> list[Question]:
    """Prompts with an answer that greedy decoding does not begin with, does, and begins as."""
    found = []
    for prompt in PROMPTS:
        greedy = complete(view, prompt, 4)
        given = (" Norway, near 東京", greedy, complete(view, prompt, 2) + " Peru")
        found.append(Question(prompt, [(text, "none") for text in given], written))
    return found


def apart(view: ModelView, questions: Sequence[Question]) -> list[Told]:
    """The same from scores of every pair and greedy decoding of every prompt."""
    told = []
    for one in questions:
        pairs = [(one.prompt, text) for text, _ in one.answers]
        scores = score(view, pairs, [join for _, join in one.answers]) if pairs else []
        length = max(one.written or 0, scores[0].tokens + 1 if scores else 0)
        decoder = Decoder(view, [one.prompt], [Sampling(length)])
        for _ in decoder.steps():
            pass
        told.append(Told(scores, decoder.results[0].text if one.written is not None else ""))
    return told


def same(found: Sequence[Told], expected: Sequence[Told]) -> None:
    assert [one.text for one in found] == [one.text for one in expected]
    for one, other in zip(found, expected, strict=True):
        counted = [(s.tokens, s.hits) for s in one.scores]
        assert counted == [(s.tokens, s.hits) for s in other.scores]
        log_p = [s.log_probability for s in other.scores]
        assert [s.log_probability for s in one.scores] == pytest.approx(log_p, rel=1e-4)


@pytest.mark.parametrize("family", tiny.ALL_FAMILIES)
def test_every_family_answers_as_it_scores_and_decodes_apart(family: str) -> None:
    view = ModelView(tiny.random_model(family))
    questions = questions_of(view)
    same(ask(view, questions), apart(view, questions))


def test_questions_may_ask_for_scores_or_for_the_greedy_answer_alone(view: ModelView) -> None:
    questions = [
        Question(PROMPTS[0], [(" Peru", "none")]),
        Question(PROMPTS[0], (), 3),
        Question(LONG, (), 2),
        Question("I", [("am", "space"), (" am", "none")], 0),
    ]
    found = ask(view, questions)
    same(found, apart(view, questions))
    assert [bool(one.text) for one in found] == [False, True, True, True]
    assert found[3].scores[0] == found[3].scores[1]


def test_more_questions_than_fit_into_a_tree_a_reading_or_a_batch(view: ModelView) -> None:
    words = ["old", "new", "wide", "land", "river", "town", "people", "home", "train", "late"]
    prompts = [f"{a} {b} {LONG}"[: 40 + i] for i, a in enumerate(words) for b in words]
    assert sum(len(view.base.tokenizer.encode(p).ids) for p in prompts) > 10 * TREE_TOKENS
    questions = [Question(prompt, [(" Peru", "none")], 2) for prompt in prompts]
    same(ask(view, questions), apart(view, questions))


def steps(view: ModelView, question: Question) -> int:
    """How often the model runs."""
    runs: list[int] = []
    backbone = view.base.family.backbone_of(view.model)
    hook = backbone.register_forward_hook(lambda *_: runs.append(1))
    ask(view, [question])
    hook.remove()
    return len(runs)


def test_what_is_given_and_written_is_not_decoded() -> None:
    words = ["Lyon", "is", "one", "two", "three", "four", "five", "six"]
    view = tiny.bigram_view({a: {b: 0.9} for a, b in pairwise(words)})
    # one reading gives a token; every further one is a step
    assert steps(view, Question("Lyon is", [("five", "auto")], 4)) == 4
    assert steps(view, Question("Lyon is", [("one two three", "auto")], 4)) == 1
    # two tokens are known by the answer, the third follows it
    other = Question("Lyon is", [("five", "auto"), ("one two", "auto"), ("one six", "auto")], 5)
    assert steps(view, other) == 3
    assert ask(view, [other])[0].text.split() == words[2:7]


def test_a_given_answer_that_the_model_ends_the_text_with_is_not_gone_beyond() -> None:
    words = ["Lyon", "is", "one", "two", "three"]
    view = tiny.bigram_view({a: {b: 0.9} for a, b in pairwise(words)})
    end = view.base.tokenizer.encode("two").ids[-1]
    view.base = replace(view.base, eos_token_ids=frozenset([end]))
    [told] = ask(view, [Question("Lyon is", [("one two three", "auto")], 6)])
    assert told.text.split() == ["one"]
    assert told.scores[0].greedy


def test_a_prompt_without_tokens_cannot_be_asked() -> None:
    view = tiny.bigram_view({"a": {"b": 0.9}})
    with pytest.raises(JeepError, match="without tokens"):
        ask(view, [Question("", [("b", "none")])])


def test_logits_that_are_not_finite_are_an_error_of_text_and_scores(gptj: LoadedModel) -> None:
    name = gptj.family.weight_name(1)
    view = ModelView(gptj, {name: torch.full_like(gptj.model.get_parameter(name), nan)})
    with pytest.raises(NumericalError, match="not finite"):
        ask(view, [Question("Lyon lies in", (), 3)])
    [told] = ask(view, [Question("Lyon lies in", [("Peru", "auto")])])
    assert told.scores[0].error is not None


def test_a_tree_has_what_texts_begin_with_once() -> None:
    tree = TokenTree()
    assert tree.add([5, 6, 7]) == [0, 1, 2]
    assert tree.missing([5, 6, 8, 9]) == 2
    assert tree.add([5, 6, 8, 9]) == [0, 1, 3, 4]
    assert (tree.child(1, 8), tree.child(1, 9)) == (3, None)
    other = TokenTree()
    other.add([1])
    ids, positions, sees = padded([tree, other])
    assert ids.tolist() == [[5, 6, 7, 8, 9], [1, 0, 0, 0, 0]]
    assert positions[0].tolist() == [0, 1, 2, 2, 3]
    assert [row.nonzero().flatten().tolist() for row in sees[0]] == [
        [0], [0, 1], [0, 1, 2], [0, 1, 3], [0, 1, 3, 4],
    ]  # fmt: skip
    assert torch.equal(sees[1], torch.eye(5, dtype=torch.bool))


def test_windows_are_counted_by_positions_in_a_tree() -> None:
    tree = TokenTree()
    tree.add([5, 6, 7])
    tree.add([5, 8, 9, 10])
    _, positions, sees = padded([tree])
    mask = Attention(window=2).among(positions, sees, torch.float32)
    seen = [row.eq(0).nonzero().flatten().tolist() for row in mask[0, 0]]
    assert seen == [[0], [0, 1], [1, 2], [0, 3], [3, 4], [4, 5]]
