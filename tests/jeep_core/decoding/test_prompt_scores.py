"""Log-probabilities of prompts, against transformers' own logits."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, log

import pytest
import torch
from support.library import tiny

from jeep_core.decoding import prompt_scores as scoring
from jeep_core.decoding.batch import Batch
from jeep_core.decoding.generation import Sampling
from jeep_core.decoding.prompt_scores import PromptScores
from jeep_core.decoding.rows import Row
from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView

PROMPTS = ([5, 80, 7, 99, 300, 41, 18], [9, 9], [301, 7, 7, 120], [17])


def run(view: ModelView, rows: Sequence[Row], **options: int) -> None:
    batch = Batch(view, **options)
    batch.add(rows)
    while len(batch):
        batch.step()


def expected(base: LoadedModel, ids: Sequence[int]) -> torch.Tensor:
    """Log-probabilities (positions, vocabulary) by one plain pass."""
    with torch.no_grad():
        return base.model(input_ids=torch.tensor([list(ids)])).logits[0].log_softmax(-1)


def check(base: LoadedModel, ids: Sequence[int], scores: PromptScores | None, top: int) -> None:
    assert scores is not None
    assert scores.ids == tuple(ids[1:])
    plain = expected(base, ids)
    assert len(scores.own) == len(scores.top) == len(ids) - 1
    for i, (own, ranked) in enumerate(zip(scores.own, scores.top, strict=True)):
        assert own == pytest.approx(float(plain[i, ids[i + 1]]), abs=1e-4)
        values, best = plain[i].topk(top)
        assert [token for token, _ in ranked] == best.tolist()
        assert [value for _, value in ranked] == pytest.approx(values.tolist(), abs=1e-4)
        if top and best[0] == ids[i + 1]:
            assert own == ranked[0][1], "to the bit: clients compare them"


@pytest.mark.parametrize("max_new_tokens", [0, 1, 5])
def test_prompts_of_a_batch_are_scored(
    base: LoadedModel, view: ModelView, max_new_tokens: int
) -> None:
    """Beside rows that do not ask for it, whose answers do not change."""
    rows = [
        Row(base, "", Sampling(max_new_tokens, prompt_top=k), ids) for k, ids in enumerate(PROMPTS)
    ]
    plain = [Row(base, "", Sampling(6), ids) for ids in PROMPTS[:2]]
    alone = Row(base, "", Sampling(6), PROMPTS[0])
    run(view, [rows[0], plain[0], *rows[1:], plain[1]])
    run(view, [alone])
    for k, (row, ids) in enumerate(zip(rows, PROMPTS, strict=True)):
        check(base, ids, row.result.scores, k)
        assert row.finished
        assert row.error is None
    assert [t.id for t in plain[0].result.tokens] == [t.id for t in alone.result.tokens]
    assert plain[0].result.scores is None


def test_the_greedy_token_has_the_value_of_the_most_probable_one(
    base: LoadedModel, view: ModelView
) -> None:
    """In a prompt that is what the model would have written, and in an answer."""
    first = Row(base, "", Sampling(12, top=1), PROMPTS[0])
    run(view, [first])
    tokens = first.result.tokens
    assert all(token.log_probability == token.ranked[0][1] for token in tokens)
    ids = [*PROMPTS[0], *(token.id for token in tokens)]
    again = Row(base, "", Sampling(0, prompt_top=1), ids)
    run(view, [again])
    scores = again.result.scores
    assert scores is not None
    written = range(len(PROMPTS[0]) - 1, len(ids) - 1)
    assert all(scores.own[i] == scores.top[i][0][1] for i in written)
    told = [token.log_probability for token in tokens]
    assert [scores.own[i] for i in written] == pytest.approx(told, abs=1e-4)


def test_the_head_sees_a_bounded_number_of_positions(
    base: LoadedModel, view: ModelView, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only those that predict a token of a prompt that asks, whatever the vocabulary."""
    sizes: list[int] = []
    logits_of = type(base.family).logits_of

    def spy(self: object, model: object, hidden: torch.Tensor) -> torch.Tensor:
        sizes.append(hidden.shape[0])
        return logits_of(base.family, model, hidden)

    monkeypatch.setattr(type(base.family), "logits_of", spy)
    monkeypatch.setattr(scoring, "LOGITS", 3 * base.vocabulary)
    rows = [Row(base, "", Sampling(0, prompt_top=2), ids) for ids in PROMPTS[:2]]
    plain = Row(base, "", Sampling(1), PROMPTS[2])
    run(view, [*rows, plain])
    scored = sum(len(ids) - 1 for ids in PROMPTS[:2])
    assert sum(sizes) == scored + 3, "and one position of each row for its next token"
    assert max(sizes) <= 3
    for row, ids in zip(rows, PROMPTS, strict=False):
        check(base, ids, row.result.scores, 2)


def test_a_prompt_is_scored_once_when_its_row_goes_on_in_another_batch(
    base: LoadedModel, view: ModelView
) -> None:
    row = Row(base, "", Sampling(5, prompt_top=1), PROMPTS[0])
    batch = Batch(view)
    batch.add([row])
    batch.step()
    batch.step()
    scores = row.result.scores
    run(view, [row])
    assert row.result.scores is scores
    assert len(row.result.tokens) == 5


def test_a_row_that_was_interrupted_before_is_scored_at_the_right_places(
    base: LoadedModel, view: ModelView
) -> None:
    """Its input has tokens of the answer at the end."""
    row = Row(base, "", Sampling(4, prompt_top=1), PROMPTS[0])
    run(view, [row])
    row.result.scores, row.result.finish_reason = None, None
    row.result.tokens.pop()
    run(view, [row])
    check(base, PROMPTS[0], row.result.scores, 1)


def test_scores_that_are_not_finite_fail_their_row_alone(gptj: LoadedModel) -> None:
    """A token of two of the prompts is broken; its head is not that of GPT-J."""
    words = gptj.model.get_parameter("transformer.wte.weight").clone()
    words[300] = torch.nan
    view = ModelView(gptj, {"transformer.wte.weight": words})
    prompts = [PROMPTS[0], PROMPTS[1], [7, 300, 7], PROMPTS[2]]
    rows = [Row(gptj, "", Sampling(2, prompt_top=1), ids) for ids in prompts]
    run(view, rows)
    assert [row.error is not None for row in rows] == [True, False, True, False]
    assert "log-probabilities of a prompt of 7 tokens are not finite" in str(rows[0].error)
    check(gptj, PROMPTS[1], rows[1].result.scores, 1)
    assert len(rows[3].result.tokens) == 2


def test_what_a_model_rules_out_is_minus_infinity() -> None:
    assert PromptScores((1, 2), (-inf, -1.0), ((), ())).finite
    assert not PromptScores((1,), (float("nan"),), ((),)).finite


def test_the_token_that_ends_a_text_has_its_log_probability() -> None:
    view = tiny.bigram_view({"a": {"b": 0.9}, "b": {"a": 0.25}})
    row = Row(view.base, "a", Sampling(5, top=2))
    run(view, [row])
    [only], end = row.result.tokens, row.result.end
    assert (only.text, row.result.finish_reason) == ("b", "stop")
    assert end is not None
    assert end.id in view.base.eos_token_ids
    assert end.log_probability == pytest.approx(log(0.75), abs=1e-3)
    assert [token for token, _ in end.ranked] == [0, row.ids[0]]


def test_a_stop_token_ends_an_answer_like_the_models_own() -> None:
    view = tiny.bigram_view({"a": {"b": 0.9}, "b": {"c": 0.9}, "c": {"a": 0.9}})
    [c] = view.base.tokenizer.encode("c").ids
    row = Row(view.base, "a", Sampling(9, stop_ids=frozenset({c})))
    run(view, [row])
    assert (row.result.text, row.result.finish_reason) == (" b", "stop")
    assert row.result.end is not None
    assert row.result.end.id == c
