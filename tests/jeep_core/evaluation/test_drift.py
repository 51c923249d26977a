"""Two versions compared token by token, against plain loops over their logits."""

from __future__ import annotations

from math import exp

import pytest
import torch
from support.library import tiny

from jeep_core.errors import Cancelled, NumericalError
from jeep_core.evaluation import drift as drifting
from jeep_core.evaluation.drift import (
    Moved,
    Passage,
    ability,
    divergence,
    drift,
    figures,
    next_token,
)
from jeep_core.evaluation.perplexity import perplexity
from jeep_core.evaluation.protocols import ALL, PROMPTS
from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView
from jeep_core.monitor import Monitor
from jeep_core.spec.facts import Fact

PASSAGES = [
    Passage("The capital of Japan is", PROMPTS, prompt=True),
    *(Passage(text, kind) for text, kind in zip(tiny.TEXTS[:4], "abab", strict=True)),
]


def changed(base: LoadedModel, scale: float = -3.0) -> ModelView:
    name = base.family.weight_name(1)
    return ModelView(base, {name: scale * base.model.get_parameter(name)})


@torch.no_grad()
def logs(view: ModelView, ids: list[int]) -> torch.Tensor:
    return view.model(torch.tensor([ids])).logits[0].float().log_softmax(-1)


@pytest.mark.parametrize("family", ["gptj", "gpt2", "llama"])
def test_every_token_is_compared(family: str, request: pytest.FixtureRequest) -> None:
    base: LoadedModel = request.getfixturevalue(family)
    before, after = ModelView(base), changed(base)
    found = drift(before, after, PASSAGES, worst=3)
    everywhere = []
    for passage, moved in zip(PASSAGES, found.passages, strict=True):
        ids = list(base.tokenizer.encode(passage.text).ids)
        old, new = logs(before, ids), logs(after, ids)
        places = range(len(ids) - 1) if not passage.prompt else [len(ids) - 1]
        kl = [float((old[p].exp() * (old[p] - new[p])).sum()) for p in places]
        everywhere += [(value, tuple(ids[: p + 1])) for value, p in zip(kl, places, strict=True)]
        assert moved.tokens == len(kl)
        assert moved.kl == pytest.approx(sum(kl), rel=1e-4)
        assert moved.changed == sum(int(old[p].argmax() != new[p].argmax()) for p in places)
        if not passage.prompt:
            expected = [sum(float(log[p, ids[p + 1]]) for p in places) for log in (old, new)]
            assert moved.log_before == pytest.approx(expected[0], rel=1e-4)
            assert moved.log_after == pytest.approx(expected[1], rel=1e-4)
    assert found.kl == pytest.approx(sum(kl for kl, _ in everywhere) / len(everywhere), rel=1e-4)
    assert found.tokens == len(everywhere)
    everywhere.sort(reverse=True)
    assert [spot.ids for spot in found.worst] == [ids for _, ids in everywhere[:3]]
    for spot in found.worst:
        old = logs(before, list(spot.ids))[-1]
        assert [i for i, _ in spot.before] == old.topk(3).indices.tolist()
        assert spot.before[0][1] == pytest.approx(float(old.max().exp()), rel=1e-4)


def test_nothing_moves_between_a_version_and_itself(gptj: LoadedModel) -> None:
    found = drift(ModelView(gptj), ModelView(gptj), PASSAGES, worst=2)
    assert (found.kl, sum(one.changed for one in found.passages)) == (0.0, 0)


def test_parts_of_the_logits_give_the_same(
    gptj: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = drift(ModelView(gptj), changed(gptj), PASSAGES, worst=4)
    monkeypatch.setattr(drifting, "LOGITS_TOGETHER", 10 * gptj.vocabulary)
    monkeypatch.setattr(drifting, "BATCH_TOKENS", 40)
    monkeypatch.setattr(drifting, "WINDOW", 16)
    parts = drift(ModelView(gptj), changed(gptj), PASSAGES[:1], worst=4)
    assert parts.passages[0].kl == pytest.approx(whole.passages[0].kl, rel=1e-4)
    monkeypatch.setattr(drifting, "WINDOW", 1024)
    again = drift(ModelView(gptj), changed(gptj), PASSAGES, worst=4)
    assert [s.ids for s in again.worst] == [s.ids for s in whole.worst]
    assert again.kl == pytest.approx(whole.kl, rel=1e-4)


def test_texts_are_cut_after_so_many_tokens_but_prompts_are_not(gptj: LoadedModel) -> None:
    found = drift(ModelView(gptj), changed(gptj), PASSAGES, max_tokens=8)
    assert [one.tokens for one in found.passages] == [1, 7, 0, 0, 0]


def test_it_can_be_ended_and_names_damage(gptj: LoadedModel) -> None:
    def stop() -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        drift(ModelView(gptj), changed(gptj), PASSAGES, monitor=Monitor(check=stop))
    with pytest.raises(NumericalError):
        drift(ModelView(gptj), changed(gptj, float("nan")), PASSAGES)


class TestFigures:
    def test_each_kind_has_its_own_and_texts_have_one_together(self, gptj: LoadedModel) -> None:
        before, after = ModelView(gptj), changed(gptj)
        found = figures(drift(before, after, PASSAGES).passages)
        assert set(found) == {PROMPTS, "a", "b", ALL}
        assert found[PROMPTS].perplexity is None
        texts = [one.text for one in PASSAGES[1:]]
        assert found[ALL].perplexity_before == pytest.approx(perplexity(before, texts), rel=1e-4)
        assert found[ALL].perplexity == pytest.approx(perplexity(after, texts), rel=1e-4)
        alone = [perplexity(after, [text]) for text in texts]
        assert found[ALL].text_perplexity == pytest.approx(sum(alone) / 4, rel=1e-4)
        assert found["a"].passages == 2
        for one in found.values():
            assert one.kl.low <= one.kl.value <= one.kl.high

    def test_tokens_weigh_the_same_and_intervals_are_over_passages(self) -> None:
        rows = [Moved("a", 1, 1.0, 1, -1.0, -2.0), Moved("a", 9, 0.0, 0, -9.0, -9.0)]
        [found] = figures(rows).values()
        assert found.kl.value == pytest.approx(0.1)
        assert found.changed.value == pytest.approx(10.0)
        assert (found.kl.low, found.kl.high) == (0.0, 1.0)
        assert found.perplexity == pytest.approx(exp(1.1))
        assert found.text_perplexity == pytest.approx((exp(2) + exp(1)) / 2)

    def test_a_passage_without_tokens_has_none(self) -> None:
        assert figures([Moved("a")]) == {}


def test_divergence_is_that_of_the_next_tokens(gptj: LoadedModel) -> None:
    ids = list(gptj.tokenizer.encode("The capital of Japan is").ids)
    old, new = next_token(ModelView(gptj), ids), next_token(changed(gptj), ids)
    assert torch.allclose(old, logs(ModelView(gptj), ids)[-1], atol=1e-5)
    [moved] = drift(ModelView(gptj), changed(gptj), PASSAGES[:1]).passages
    assert divergence(old, new) == pytest.approx(moved.kl, rel=1e-4)


def test_ability_counts_what_one_version_knows_and_the_other_keeps() -> None:
    table = {"in": {"Rome": 0.6, "Oslo": 0.3}, "by": {"Oslo": 0.7, "Rome": 0.2}}
    before = tiny.bigram_view(table)
    after = tiny.bigram_view({**table, "by": {"Rome": 0.7, "Oslo": 0.2}})
    facts = [
        Fact("x", "{} in", "Oslo", "Rome"),
        Fact("y", "{} by", "Rome", "Oslo"),
        Fact("x", "{} by", "Oslo", "Rome"),
        Fact("y", "{} in", "Oslo"),
    ]
    assert ability(before, after, facts) == (2, 1)
    assert ability(before, before, facts) == (2, 2)
