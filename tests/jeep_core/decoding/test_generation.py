"""Decoding and scoring against transformers' own and against plain loops."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import pytest
import torch
from support.library import tiny

import jeep_core
from jeep_core.decoding import sampling
from jeep_core.decoding.generation import (
    Decoder,
    Generated,
    Sampling,
    generate,
    score,
    score_rows,
    score_texts,
)
from jeep_core.decoding.sampling import SAMPLED_TOGETHER
from jeep_core.errors import JeepError
from jeep_core.models.delta import Update
from jeep_core.models.loading import LoadedModel, wrap
from jeep_core.models.views import ModelView
from jeep_core.text.joining import joined

PROMPTS = ("Paris is a city in the country of", "東京", "Because the train", "I")
COINS = tiny.bigram_view({
    "toss": {"heads": 0.5, "tails": 0.3, "edge": 0.15, "lost": 0.05},
    "count": {"one": 0.9}, "one": {"two": 0.8}, "two": {"three": 0.7}, "three": {"one": 0.6},
    "stop": {"one": 0.1},
})  # fmt: skip


def ids_of(result: Generated) -> list[int]:
    return [token.id for token in result.tokens]


def texts(prompt: str, count: int, **changes: Any) -> list[str]:
    """The words that ``count`` seeds write after a prompt."""
    sampling = [Sampling(1, **{"temperature": 1.0, **changes}, seed=i) for i in range(count)]
    decoder = Decoder(COINS, [prompt] * count, sampling)
    list(decoder.steps())
    return [result.text.strip() for result in decoder.results]


def test_many_rows_are_sampled_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(2 * SAMPLED_TOGETHER + 5, 11, generator=torch.manual_seed(0))
    options = [
        Sampling(temperature=i % 3, top_k=i % 4 or None, top_p=0.5 + 0.1 * (i % 6))
        for i in range(len(logits))
    ]
    sizes, whole = [], sampling._sampled

    def seen(rows: torch.Tensor, *given: Any) -> torch.Tensor:
        sizes.append(len(rows))
        return whole(rows, *given)

    monkeypatch.setattr(sampling, "_sampled", seen)
    randoms = [Random(i) for i in range(len(logits))]
    together = sampling.choose(logits, options, randoms)
    assert max(sizes) == SAMPLED_TOGETHER
    for i, one in enumerate(together):
        assert sampling.choose(logits[i : i + 1], options[i : i + 1], [Random(i)]) == [one]


def test_greedy_equals_transformers(base: LoadedModel, view: ModelView) -> None:
    results = generate(view, PROMPTS, Sampling(12))
    for prompt, result in zip(PROMPTS, results, strict=True):
        ids = torch.tensor([base.tokenizer.encode(prompt).ids])
        expected = base.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=12,
            pad_token_id=0,
        )[0, ids.shape[1] :].tolist()
        ended = expected[-1] in base.eos_token_ids
        assert ids_of(result) == (expected[:-1] if ended else expected)
        assert result.finish_reason == ("stop" if ended else "length")
        before = base.tokenizer.decode(ids[0].tolist())
        assert before.strip() == prompt
        whole = base.tokenizer.decode([*ids[0].tolist(), *ids_of(result)])
        # bytes that are no text are shown differently by some tokenizers, depending on company
        assert "\ufffd" in whole or before + result.text == whole
        assert result.text == "".join(token.delta for token in result.tokens)


def test_an_edited_view_answers_from_its_own_weights(gptj: LoadedModel) -> None:
    view, name = ModelView(gptj), gptj.family.weight_name(2)
    view.update(
        name, Update(dense=torch.randn(32, 128, generator=torch.Generator().manual_seed(0)))
    )
    own = wrap("edited", view.model, gptj.tokenizer)
    [edited], [base] = (generate(v, PROMPTS[:1], Sampling(8)) for v in (view, ModelView(gptj)))
    assert ids_of(edited) != ids_of(base)
    assert ids_of(edited) == ids_of(generate(ModelView(own), PROMPTS[:1], Sampling(8))[0])


def test_a_model_and_a_view_of_it_complete_a_prompt_alike(gptj: LoadedModel) -> None:
    [expected] = generate(ModelView(gptj), PROMPTS[:1], Sampling(6))
    assert jeep_core.complete(gptj, PROMPTS[0], 6) == expected.text != ""
    assert jeep_core.complete(ModelView(gptj), PROMPTS[0], 6) == expected.text
    view, name = ModelView(gptj), gptj.family.weight_name(2)
    rows = torch.randn(32, 128, generator=torch.Generator().manual_seed(0))
    view.update(name, Update(dense=rows))
    assert jeep_core.complete(view, PROMPTS[0], 6) != expected.text
    assert jeep_core.complete(gptj, PROMPTS[0], 6) == expected.text


def test_other_rows_of_a_batch_change_no_answer(view: ModelView) -> None:
    """Prompts of other lengths mean padding on the left."""
    together = generate(view, PROMPTS, Sampling(8, top=3))
    for prompt, result in zip(PROMPTS, together, strict=True):
        [alone] = generate(view, [prompt], Sampling(8, top=3))
        assert ids_of(alone) == ids_of(result)
        assert alone.text == result.text
        for a, b in zip(alone.tokens, result.tokens, strict=True):
            assert a.probability == pytest.approx(b.probability, rel=1e-4)
            assert [t[0] for t in a.top] == [t[0] for t in b.top]


def test_probabilities_are_the_models(gptj: LoadedModel) -> None:
    """Before temperature and truncation, also for sampled tokens."""
    sampling = Sampling(6, temperature=2.0, top_k=50, seed=3, top=4)
    [result] = generate(ModelView(gptj), PROMPTS[:1], sampling)
    ids = gptj.tokenizer.encode(PROMPTS[0]).ids
    for token in result.tokens:
        with torch.no_grad():
            row = gptj.model(input_ids=torch.tensor([ids])).logits[0, -1].softmax(0)
        assert token.probability == pytest.approx(float(row[token.id]), rel=1e-4)
        assert token.text == gptj.tokenizer.decode([token.id])
        values, index = row.topk(4)
        assert [t[0] for t in token.top] == index.tolist()
        assert [t[2] for t in token.top] == pytest.approx(values.tolist(), rel=1e-4)
        ids.append(token.id)


def test_a_seed_fixes_the_answer_whatever_else_is_decoded(view: ModelView) -> None:
    hot = Sampling(10, temperature=1.5, seed=5)
    [first], [again] = (generate(view, PROMPTS[:1], hot) for _ in range(2))
    assert first.text == again.text
    others = [Sampling(3, temperature=1.0, seed=9), hot, Sampling(12)]
    decoder = Decoder(view, [PROMPTS[1], PROMPTS[0], PROMPTS[2]], others)
    list(decoder.steps())
    assert ids_of(decoder.results[1]) == ids_of(first)
    answers = {
        tuple(ids_of(generate(view, PROMPTS[:1], Sampling(10, temperature=1.5, seed=seed))[0]))
        for seed in range(4)
    }
    assert len(answers) == 4


def test_without_a_seed_answers_differ() -> None:
    found = {generate(COINS, ["toss"] * 20, Sampling(1, temperature=1.0))[i].text
             for i in range(20)}  # fmt: skip
    assert len(found) > 1


def test_sampling_follows_the_probabilities() -> None:
    counts = Counter(texts("toss", 2000))
    shares = {word: counts[word] / 2000 for word in ("heads", "tails", "edge", "lost")}
    assert shares == pytest.approx(
        {"heads": 0.5, "tails": 0.3, "edge": 0.15, "lost": 0.05}, abs=0.035
    )


def test_temperature_sharpens_and_flattens() -> None:
    """At temperature ½ the odds of heads to tails are (5/3)² = 25:9."""
    counts = Counter(texts("toss", 2000, temperature=0.5, top_k=2))
    assert counts["heads"] / 2000 == pytest.approx(25 / 34, abs=0.035)
    assert set(texts("toss", 50, temperature=0.01)) == {"heads"}
    assert set(texts("toss", 50, temperature=0.0)) == {"heads"}


@pytest.mark.parametrize(
    ("top_k", "left"),
    [
        (1, {"heads"}),
        (2, {"heads", "tails"}),
        (3, {"heads", "tails", "edge"}),
        (1000, {"heads", "tails", "edge", "lost"}),
    ],
)
def test_top_k_keeps_the_most_probable_tokens(top_k: int, left: set[str]) -> None:
    assert set(texts("toss", 200, top_k=top_k)) == left


@pytest.mark.parametrize(
    ("top_p", "left"),
    [
        (0.01, {"heads"}),
        (0.49, {"heads"}),
        (0.51, {"heads", "tails"}),
        (0.79, {"heads", "tails"}),
        (0.81, {"heads", "tails", "edge"}),
        (1.0, {"heads", "tails", "edge", "lost"}),
    ],
)
def test_top_p_keeps_the_smallest_set_above_the_limit(top_p: float, left: set[str]) -> None:
    """The fewest most probable words whose probabilities reach top_p."""
    assert set(texts("toss", 200, top_p=top_p)) == left


def test_top_p_counts_what_top_k_left() -> None:
    """Of heads and tails alone, heads has 0.625."""
    assert set(texts("toss", 100, top_k=2, top_p=0.6)) == {"heads"}
    assert set(texts("toss", 100, top_k=2, top_p=0.65)) == {"heads", "tails"}


def test_decoding_goes_on_to_the_length_asked_for() -> None:
    [result] = generate(COINS, ["count"], Sampling(5))
    assert result.text == " one two three one two"
    assert result.finish_reason == "length"


def test_the_end_token_ends_the_text() -> None:
    [ended, other] = generate(COINS, ["stop", "count"], Sampling(3))
    assert (ended.text, ended.tokens, ended.finish_reason) == ("", [], "stop")
    assert other.text == " one two three"


@pytest.mark.parametrize(
    ("stop", "text"),
    [
        (("three",), " one two "),
        (("two", "three"), " one "),
        (("three", "two"), " one "),
        (("wo t",), " one t"),
        (("wo", "two"), " one "),
        (("four", ""), " one two three one two"),
    ],
)
def test_stop_strings_end_the_text_before_them(stop: tuple[str, ...], text: str) -> None:
    [result] = generate(COINS, ["count"], Sampling(5, stop=stop))
    assert result.text == text
    assert result.finish_reason == ("length" if "four" in stop else "stop")


def test_nothing_is_decoded_when_nothing_is_asked_for() -> None:
    decoder = Decoder(COINS, ["count", "toss"], [Sampling(0), Sampling(0)])
    assert list(decoder.steps()) == []
    assert [r.finish_reason for r in decoder.results] == ["length", "length"]


@pytest.mark.parametrize("temperature", [1e-45, 1e-310, 5e-324])
def test_a_temperature_near_zero_is_greedy(base: LoadedModel, temperature: float) -> None:
    view = ModelView(base)
    cold = generate(view, PROMPTS, Sampling(6, temperature=temperature, seed=1))
    assert [r.text for r in cold] == [r.text for r in generate(view, PROMPTS, Sampling(6))]


def test_every_step_says_which_rows_got_a_token() -> None:
    prompts = ["count", "stop", "count"]
    decoder = Decoder(COINS, prompts, [Sampling(3), Sampling(3), Sampling(1)])
    assert list(decoder.steps()) == [[0, 2], [0], [0]]  # the end of text is no token


def plain_score(base: LoadedModel, prompt: str, target: str) -> tuple[int, float, int]:
    """Tokens, Σ log P and arg-max hits, one growing text at a time."""
    ids, n = base.tokenizer.encode(joined(prompt, target)).ids, len(base.tokenizer.encode(prompt))
    total, hits = 0.0, 0
    for place in range(n, len(ids)):
        with torch.no_grad():
            row = base.model(input_ids=torch.tensor([ids[:place]])).logits[0, -1]
        total += float(row.log_softmax(0)[ids[place]])
        hits += int(row.argmax() == ids[place])
    return len(ids) - n, total, hits


def test_scores_equal_a_plain_loop(base: LoadedModel, view: ModelView) -> None:
    greedy = generate(view, PROMPTS[:1], Sampling(2))[0].text
    pairs = [(p, t) for p in PROMPTS for t in ("Peru", "the old towns near 東京", " 3")]
    pairs.append((PROMPTS[0], greedy))
    for pair, scored in zip(pairs, score(view, pairs), strict=True):
        tokens, total, hits = plain_score(base, *pair)
        assert (scored.tokens, scored.hits) == (tokens, hits)
        assert scored.log_probability == pytest.approx(total, rel=1e-4)
        assert scored.mean == pytest.approx(total / tokens, rel=1e-4)
        assert scored.greedy == (hits == tokens)


def test_small_batches_change_no_score(gptj: LoadedModel) -> None:
    view = ModelView(gptj)
    rows = [(gptj.tokenizer.encode(text).ids, 1 + i % 3) for i, text in enumerate(tiny.TEXTS)]
    whole = score_rows(view, rows)
    for one, other in zip(whole, score_rows(view, rows, batch_tokens=60), strict=True):
        assert (one.tokens, one.hits) == (other.tokens, other.hits)
        assert one.log_probability == pytest.approx(other.log_probability, rel=1e-4)


def test_answers_that_share_a_row_see_the_head_in_parts(gptj: LoadedModel) -> None:
    """Forty answers after one prompt are one row, but no more places at once than asked for."""
    view, seen = ModelView(gptj), []
    ids = gptj.tokenizer.encode(tiny.TEXTS[0]).ids
    [alone] = score_rows(view, [(ids, 1)])
    head = view.model.get_output_embeddings()
    head.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    together = score_rows(view, [(ids, 1)] * 40, batch_tokens=50)
    assert max(seen) <= 50
    assert sum(seen) == 40 * alone.tokens
    for one in together:
        assert (one.tokens, one.hits) == (alone.tokens, alone.hits)
        assert one.log_probability == pytest.approx(alone.log_probability, rel=1e-5)


def test_a_text_is_scored_after_its_first_token() -> None:
    """0.9, then 0.8, then 0.7; a text of one word has nothing to score."""
    [scored, single] = score_texts(COINS, ["count one two three", "count"])
    assert (scored.tokens, scored.hits, scored.greedy) == (3, 3, True)
    log_probability = torch.tensor([0.9, 0.8, 0.7]).log().sum()
    assert scored.log_probability == pytest.approx(float(log_probability), rel=1e-3)
    assert (single.tokens, single.log_probability) == (0, 0.0)
    assert score_texts(COINS, ["count"]) == [single]


def test_nothing_to_score_is_no_error() -> None:
    assert score(COINS, []) == []


def test_a_prompt_without_tokens_is_refused() -> None:
    """There is no place to read the first word's probability from."""
    with pytest.raises(JeepError, match="prompt"):
        score(COINS, [("", "one")])
