"""Second moments of gradients: against plain backward passes, kept, resumed, refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.library import tiny
from torch.nn import functional as F

from jeep_core.editors.crispedit.hparams import CrispEditHParams
from jeep_core.errors import JeepError, MissingMoments
from jeep_core.models.loading import LoadedModel
from jeep_core.moments import cache as moments_module
from jeep_core.moments import sums as moment_sums
from jeep_core.moments import unfinished
from jeep_core.moments.cache import Moments
from jeep_core.moments.source import MomentSource
from jeep_core.monitor import Monitor
from jeep_core.spec.matrices import AttentionOut, GradientOf, in_order, place_of
from jeep_core.text.encoding import encode

LAYERS = (1, 3)
PLACES = [GradientOf(layer) for layer in LAYERS]
SAMPLES = 600


@pytest.fixture(scope="module", params=tiny.ALL_FAMILIES)
def family(request: pytest.FixtureRequest) -> LoadedModel:
    return tiny.random_model(request.param)


def plain(base: LoadedModel, layer: int, tokens: int) -> torch.Tensor:
    """E[b bᵀ] (d, d) in float64: document by document, by torch's own backward pass."""
    rows, total = [], 0
    for text in tiny.TEXTS:
        if total >= tokens:
            break
        ids = encode(base.tokenizer, text).ids[: base.max_positions]
        total += len(ids)
        if len(ids) < 2:
            continue
        seen: dict[str, Any] = {}

        def hook(module: Any, args: Any, output: Any, seen: dict[str, Any] = seen) -> Any:
            seen["out"] = output.detach().requires_grad_()
            return seen["out"]

        handle = tiny.mlp_out(base.model, layer).register_forward_hook(hook)
        logits = base.model(input_ids=torch.tensor([ids])).logits[0]
        handle.remove()
        loss = F.cross_entropy(logits[:-1], torch.tensor(ids[1:]), reduction="sum")
        (gradient,) = torch.autograd.grad(loss, [seen["out"]])
        rows.append(gradient.reshape(len(ids), -1)[:-1].double())
    b = torch.cat(rows)
    return b.T @ b / len(b)


def test_moments_are_those_of_plain_backward_passes(family: LoadedModel) -> None:
    moments = Moments(family, tiny.TEXTS, SAMPLES)
    moments.ensure([LAYERS[0], *PLACES])
    tokens = moments.count(PLACES[0])
    assert tokens == -(-SAMPLES * family.hidden_size // family.mlp_size)
    for place in PLACES:
        expected = plain(family, place.layer, tokens)
        found = moments.factor(place).moment
        assert found.shape == (family.hidden_size, family.hidden_size)
        assert (found - expected).norm() < 1e-4 * expected.norm()
    assert moments.factor(LAYERS[0]).moment.shape == (family.mlp_size, family.mlp_size)


def test_they_are_kept_and_found_again(gptj: LoadedModel, tmp_path: Path) -> None:
    first = Moments(gptj, tiny.TEXTS, SAMPLES, tmp_path)
    first.ensure([1, *PLACES])
    paths = [first.path(place) for place in (1, *PLACES)]
    assert len({*paths}) == 3
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in paths if path}
    again = Moments(gptj, tiny.TEXTS, SAMPLES, tmp_path)
    again.sums = None  # type: ignore[assignment,method-assign]
    again.ensure([1, *PLACES])
    for place in PLACES:
        assert torch.equal(again.factor(place).stored, first.factor(place).stored)
    path = first.path(PLACES[0])
    assert path is not None
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    damaged = Moments(gptj, tiny.TEXTS, SAMPLES, tmp_path)
    damaged.ensure(PLACES)
    with pytest.raises(JeepError, match=rf"layer 1.gradient: .*remove {path}"):
        _ = damaged.factor(PLACES[0]).stored


class Killed(BaseException):
    """The process ends here."""


def test_a_pass_that_was_killed_goes_on_with_the_same_bits(
    gptj: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moments_module, "BATCH_TOKENS", 60)
    monkeypatch.setattr(moment_sums, "BLOCK_TOKENS", 100)
    monkeypatch.setattr(unfinished, "SAVE_EVERY_S", 0.0)
    monkeypatch.setattr(unfinished, "SAVING_SHARE", 1e9)
    monkeypatch.setattr(moments_module, "GRADIENT_LOGITS", 1)
    monkeypatch.setattr(moments_module, "GRADIENT_TOKENS", 40)
    whole = Moments(gptj, tiny.TEXTS, 3 * SAMPLES)
    whole.ensure(PLACES)
    asked: list[int] = []

    def check() -> None:
        asked.append(1)
        if len(asked) == 6:
            raise Killed

    with pytest.raises(Killed):
        Moments(gptj, tiny.TEXTS, 3 * SAMPLES, tmp_path).ensure(PLACES, Monitor(check=check))
    assert [path.name.split("-")[0] for path in tmp_path.iterdir()] == ["unfinished"]
    seen: list[int] = []
    resumed = Moments(gptj, tiny.TEXTS, 3 * SAMPLES, tmp_path)
    resumed.ensure(PLACES, Monitor(lambda phase, done, total: seen.append(done)))
    assert seen[0] > 0
    for place in PLACES:
        assert torch.equal(resumed.factor(place).stored, whole.factor(place).stored)


def test_published_statistics_have_none(tmp_path: Path) -> None:
    source = MomentSource("hash", "wikipedia", tmp_path)
    hparams = CrispEditHParams(layers=(1,))
    assert hparams.moment_layers == [1, GradientOf(1)]
    with pytest.raises(MissingMoments, match="start the worker without JEEP_MOMENTS"):
        source.check("crispedit", hparams)
    MomentSource("hash", None, tmp_path).check("crispedit", hparams)


def test_places_have_names_and_an_order() -> None:
    places = [GradientOf(2), AttentionOut(2), 2, GradientOf(1), 10]
    assert [place_of(str(place)) for place in places] == places
    ordered = sorted(places, key=in_order)  # type: ignore[type-var]
    assert list(map(str, ordered)) == ["1.gradient", "2", "2.attention", "2.gradient", "10"]


def test_a_short_text_has_no_more_tokens_than_there_are(gptj: LoadedModel) -> None:
    """What the moment weighs beside other keys; the number that was asked for is much larger."""
    texts = ["Paris is a city in France.", "Rome", "The river is wide and old."]
    moments = Moments(gptj, texts, samples=100_000)
    lengths = [len(encode(gptj.tokenizer, text).ids) for text in texts]
    assert moments.tokens(1) == moments.sums([1]).count == sum(lengths)
    places = [GradientOf(1)]
    expected = sum(length - 1 for length in lengths)
    assert moments.tokens(places[0]) == moments.sums(places).count == expected
