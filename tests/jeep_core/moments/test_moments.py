"""Second moments against a plain loop over the tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.library import tiny

from jeep_core.errors import Cancelled, JeepError
from jeep_core.models.loading import LoadedModel
from jeep_core.moments.cache import Moments
from jeep_core.monitor import Monitor, stop_if

LONG = " ".join(tiny.TEXTS[:6])
CORPUS = [*tiny.TEXTS[:9], LONG, "東京", *tiny.TEXTS[9:12]]


def keys_of(base: LoadedModel, text: str, layer: int) -> list[torch.Tensor]:
    """One key per token of a text, read by a hook of the test's own."""
    taken: list[torch.Tensor] = []
    handle = tiny.mlp_out(base.model, layer).register_forward_hook(
        lambda m, args, output: taken.append(args[0])
    )
    ids = base.tokenizer.encode(text).ids[: tiny.POSITIONS]
    with torch.no_grad():
        base.model(input_ids=torch.tensor([ids]))
    handle.remove()
    return list(taken[0].reshape(len(ids), -1).double())


def plain_moment(base: LoadedModel, texts: list[str], layer: int) -> torch.Tensor:
    keys = [key for text in texts for key in keys_of(base, text, layer)]
    total = torch.zeros(len(keys[0]), len(keys[0]), dtype=torch.float64)
    for key in keys:
        total += torch.outer(key, key)
    return total / len(keys)


def assert_near(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert (found - expected).norm() <= 1e-5 * expected.norm()


REFUSE = Monitor(check=stop_if(lambda: True))
"""Lets nothing be computed."""


def test_moments_equal_a_loop_over_tokens(base: LoadedModel) -> None:
    """Texts of many lengths in one batch, one of them cut at the model's limit."""
    assert len(base.tokenizer.encode(LONG).ids) > tiny.POSITIONS
    moments = Moments(base, CORPUS)
    moments.ensure([0, 2])
    for layer in (0, 2):
        assert_near(moments.factor(layer).moment, plain_moment(base, CORPUS, layer))
        assert moments.factor(layer).name == f"layer {layer}"


def test_small_batches_change_nothing(gptj: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit below one text's length still takes every text."""
    monkeypatch.setattr("jeep_core.moments.cache.BATCH_TOKENS", 50)
    moments = Moments(gptj, CORPUS)
    moments.ensure([1])
    assert_near(moments.factor(1).moment, plain_moment(gptj, CORPUS, 1))


def test_only_the_first_tokens_of_the_corpus_are_used(gptj: LoadedModel) -> None:
    first, second = (len(gptj.tokenizer.encode(text).ids) for text in CORPUS[:2])
    moments = Moments(gptj, CORPUS, samples=first + second - 1)
    moments.ensure([1])
    assert_near(moments.factor(1).moment, plain_moment(gptj, CORPUS[:2], 1))


def test_known_moments_are_not_computed_again(gptj: LoadedModel) -> None:
    moments = Moments(gptj, CORPUS)
    moments.ensure([1])
    factor = moments.factor(1)
    moments.ensure([1], monitor=REFUSE)
    assert moments.factor(1) is factor
    with pytest.raises(Cancelled):
        moments.ensure([1, 2], monitor=REFUSE)


def test_moments_are_kept_in_their_folder(gptj: LoadedModel, tmp_path: Path) -> None:
    first = Moments(gptj, CORPUS, folder=tmp_path / "moments")
    first.ensure([1, 2])
    assert len(list((tmp_path / "moments").iterdir())) == 2
    again = Moments(gptj, CORPUS, folder=tmp_path / "moments")
    again.ensure([1, 2], monitor=REFUSE)
    assert torch.equal(again.factor(1).moment, first.factor(1).moment)
    assert torch.equal(again.factor(2).moment, first.factor(2).moment)
    with pytest.raises(Cancelled):
        again.ensure([3], monitor=REFUSE)


def test_only_missing_layers_are_computed(gptj: LoadedModel, tmp_path: Path) -> None:
    Moments(gptj, CORPUS, folder=tmp_path).ensure([1])
    both = Moments(gptj, CORPUS, folder=tmp_path)
    both.ensure([0, 1])
    assert_near(both.factor(0).moment, plain_moment(gptj, CORPUS, 0))
    assert_near(both.factor(1).moment, plain_moment(gptj, CORPUS, 1))


@pytest.mark.parametrize(
    "change",
    [
        {"texts": [*CORPUS[:-1], "another last text"]},
        {"texts": CORPUS[::-1]},
        {"samples": 99_999},
        {"base": "seed"},
        {"base": "dtype"},
    ],
)
def test_the_key_names_everything_they_depend_on(
    gptj: LoadedModel, tmp_path: Path, change: dict[str, Any]
) -> None:
    Moments(gptj, CORPUS, folder=tmp_path).ensure([1])
    others = {
        "seed": lambda: tiny.random_model("gptj", seed=1),
        "dtype": lambda: tiny.random_model("gptj", torch.bfloat16),
    }
    if "base" in change:
        change = {"base": others[change["base"]]()}
    changed = Moments(**{"base": gptj, "texts": CORPUS, "folder": tmp_path, **change})
    with pytest.raises(Cancelled):
        changed.ensure([1], monitor=REFUSE)


def test_the_key_names_the_layer_and_nothing_else(gptj: LoadedModel) -> None:
    keys = {Moments(gptj, CORPUS).key(layer) for layer in range(4)}
    assert len(keys) == 4
    assert keys == {Moments(gptj, list(CORPUS)).key(layer) for layer in range(4)}


def test_progress_grows_to_the_samples_asked_for(
    gptj: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jeep_core.moments.cache.BATCH_TOKENS", 50)
    told: list[tuple[str, int, int]] = []
    moments = Moments(gptj, CORPUS, samples=100)
    moments.ensure([1], Monitor(lambda phase, done, total: told.append((phase, done, total))))
    done = [entry[1] for entry in told]
    assert {(phase, total) for phase, _, total in told} == {("moments", 100)}
    assert len(done) > 1
    assert done == sorted(done)
    assert done[-1] == 100


def test_cancelling_leaves_nothing_behind(
    gptj: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jeep_core.moments.cache.BATCH_TOKENS", 50)
    asked: list[int] = []

    def third_time() -> bool:
        asked.append(1)
        return len(asked) == 3

    moments = Moments(gptj, CORPUS, folder=tmp_path)
    with pytest.raises(Cancelled):
        moments.ensure([1], monitor=Monitor(check=stop_if(third_time)))
    assert len(asked) == 3
    assert list(tmp_path.iterdir()) == []
    moments.ensure([1])
    assert_near(moments.factor(1).moment, plain_moment(gptj, CORPUS, 1))


def test_an_empty_corpus_is_an_error(gptj: LoadedModel) -> None:
    with pytest.raises(JeepError, match="empty"):
        Moments(gptj, []).ensure([1])
