"""Gradient pairs and fine-tuning against plain backward passes."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from support.library import tiny
from torch.nn import functional as F

from jeep_core.decoding.generation import score
from jeep_core.editing import edit, tokenize
from jeep_core.editors.base import EditContext
from jeep_core.editors.ft_wd.editor import FtWd
from jeep_core.editors.ft_wd.hparams import FtWdHParams
from jeep_core.errors import Cancelled
from jeep_core.models.delta import WeightDelta
from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView
from jeep_core.monitor import Monitor, stop_if
from jeep_core.spec.facts import Fact
from jeep_core.spec.positions import PromptTokens
from jeep_core.values.gradient_pairs import enter, gradient_pairs, read, shifted

FACTS = (
    Fact("Paris", "{} is a city in the country of", "Peru"),
    Fact("São Paulo", "People who live in {} are at home in", "North Norway"),
    Fact("東京", "The capital of Japan is {}", "old"),
)
TUNE = {"layer": 2, "n_steps": 12, "learning_rate": 0.02, "weight_decay": 0.01}


def rows_of(base: LoadedModel) -> list[PromptTokens]:
    return [fact.rows[0] for fact in tokenize(base, FACTS, [""])]


def plain_loss(model: Any, rows: Sequence[PromptTokens]) -> torch.Tensor:
    """Sum over rows, one at a time, of the mean loss of their target tokens."""
    losses = []
    for row in rows:
        logits = model(input_ids=torch.tensor([row.ids])).logits[0]
        places = slice(row.prediction, row.prediction + row.n_target)
        losses.append(F.cross_entropy(logits[places], torch.tensor(row.ids[row.prediction + 1 :])))
    return torch.stack(losses).sum()


def test_the_sum_of_outer_products_is_the_gradient(base: LoadedModel) -> None:
    model, rows = copy.deepcopy(base.model), rows_of(base)
    weights = [tiny.mlp_out(model, layer).weight.requires_grad_() for layer in range(4)]
    expected = torch.autograd.grad(plain_loss(model, rows), weights)
    pairs = gradient_pairs(ModelView(base), rows, [0, 1, 2, 3])
    for layer, gradient in enumerate(expected):
        u, delta = pairs[layer]
        assert len(u) == len(delta) == sum(len(row.ids) - 1 for row in rows)
        found = u.T @ delta if base.family.name == "GPT-2" else delta.T @ u
        assert torch.allclose(found, gradient, rtol=1e-4, atol=1e-6)


def test_pairs_do_not_depend_on_the_other_rows(gptj: LoadedModel) -> None:
    view, rows = ModelView(gptj), rows_of(gptj)
    together = gradient_pairs(view, rows, [1])[1]
    alone = [gradient_pairs(view, [row], [1])[1] for row in rows]
    for part in (0, 1):
        joined = torch.cat([pair[part] for pair in alone])
        assert torch.allclose(together[part], joined, rtol=1e-4, atol=1e-6)
    assert not any(p.requires_grad for p in view.model.parameters())


@pytest.mark.parametrize("block", [0, 1, 3])
def test_rows_entered_at_a_block_read_the_same(base: LoadedModel, block: int) -> None:
    view, rows = ModelView(base), rows_of(base)
    with torch.no_grad():
        whole, from_block = read(view, rows), read(view, rows, enter(view, rows, block))
    assert torch.allclose(whole.log_probabilities, from_block.log_probabilities, atol=1e-5)
    assert torch.equal(whole.targets, from_block.targets)


def test_a_row_without_a_target_is_read_at_its_end(gptj: LoadedModel) -> None:
    view, kl = ModelView(gptj), tokenize(gptj, FACTS, [""])[1].kl
    with torch.no_grad():
        found = read(view, [kl])
        logits = gptj.model(input_ids=torch.tensor([kl.ids])).logits[0, -1]
    assert torch.allclose(found.log_probabilities[0], logits.log_softmax(-1), atol=1e-5)
    assert found.targets.tolist() == [-100]


def test_a_shift_acts_as_the_changed_matrix(base: LoadedModel) -> None:
    model, rows, view = copy.deepcopy(base.model), rows_of(base), ModelView(base)
    out = tiny.mlp_out(model, 1)
    transposed = base.family.name == "GPT-2"
    shape = tuple(out.weight.shape)[::-1] if transposed else tuple(out.weight.shape)
    delta = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    out.weight.data += delta.T if transposed else delta
    with torch.no_grad():
        with shifted(view, {1: delta}):
            found = read(view, rows).nll(len(rows)).sum()
        unchanged = read(view, rows).nll(len(rows)).sum()
    assert torch.allclose(found, plain_loss(model, rows), rtol=1e-4)
    assert torch.allclose(unchanged, plain_loss(base.model, rows), rtol=1e-4)


@pytest.mark.parametrize("towards", ["zero", "start"])
def test_fine_tuning_equals_adam_with_its_own_weight_decay(base: LoadedModel, towards: str) -> None:
    """The second form decays Δ, so a model whose matrix is W + Δ is tuned by Δ."""
    hparams = FtWdHParams(**{**TUNE, "decay_towards": towards}, stop_loss=1e-6)
    model, rows = copy.deepcopy(base.model), rows_of(base)
    module = tiny.mlp_out(model, 2)
    start = module.weight.data.clone()
    leaf = start.clone() if towards == "zero" else torch.zeros_like(start)
    leaf.requires_grad_()
    del module.weight
    adam = torch.optim.Adam([leaf], lr=hparams.learning_rate, weight_decay=0.01)
    for _ in range(hparams.n_steps):
        module.weight = leaf if towards == "zero" else start + leaf
        adam.zero_grad()
        (plain_loss(model, rows) / len(rows)).backward()
        adam.step()
    expected = leaf.detach() - (start if towards == "zero" else 0)
    outcome = FtWd().run(EditContext(ModelView(base), tokenize(base, FACTS, [""])), hparams)
    [update] = outcome.delta.updates.values()
    expected = expected.T if base.family.name == "GPT-2" else expected
    difference = update.matrix() - expected.double()
    assert difference.norm() < 2e-3 * expected.norm()


def test_fine_tuning_writes_one_layer_and_leaves_the_base_alone(base: LoadedModel) -> None:
    before = ModelView(base).weights_sha256()
    pairs = [(fact.text, fact.target_new) for fact in FACTS]
    old = score(ModelView(base), pairs)
    result = edit(base, FACTS, "ft-wd", hparams=TUNE)
    assert list(result.delta.updates) == [base.family.weight_name(2)]
    assert ModelView(base).weights_sha256() == before
    view = ModelView(base)
    view.apply(result.delta)
    for was, now in zip(old, score(view, pairs), strict=True):
        assert now.mean > was.mean + 0.5
    assert result.values is None
    [layer] = result.layers
    weight = base.model.get_parameter(layer.name).double().norm()
    change = result.delta.updates[layer.name].matrix().norm()
    assert layer.relative_norm == pytest.approx(float(change / weight))
    again = edit(base, FACTS, "ft-wd", hparams=TUNE)
    assert _same(result.delta, again.delta)


def _same(one: WeightDelta, other: WeightDelta) -> bool:
    a, b = one.tensors(), other.tensors()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_fine_tuning_continues_from_an_earlier_edit(gptj: LoadedModel) -> None:
    first = edit(gptj, FACTS[:1], "ft-wd", hparams=TUNE)
    view = ModelView(gptj)
    view.apply(first.delta)
    second = edit(view, FACTS[1:], "ft-wd", hparams=TUNE)
    view.apply(second.delta)
    pairs = [(fact.text, fact.target_new) for fact in FACTS[1:]]
    for was, now in zip(score(ModelView(gptj), pairs), score(view, pairs), strict=True):
        assert now.mean > was.mean


def test_steps_end_when_the_loss_is_small(gptj: LoadedModel) -> None:
    """Every batch below the limit: not a single update."""
    nothing = edit(gptj, FACTS, "ft-wd", hparams={**TUNE, "stop_loss": 1e9})
    [update] = nothing.delta.updates.values()
    assert update.matrix().norm() == 0
    phases: list[tuple[int, int]] = []
    hparams = {**TUNE, "n_steps": 1000, "weight_decay": 0, "stop_loss": 2.0}
    monitor = Monitor(lambda _, done, total: phases.append((done, total)))
    result = edit(gptj, FACTS[:1], "ft-wd", hparams=hparams, monitor=monitor)
    assert 3 < len(phases) < 500
    view = ModelView(gptj)
    view.apply(result.delta)
    [scored] = score(view, [(FACTS[0].text, FACTS[0].target_new)])
    assert scored.mean > -2.0
    assert phases[-1] == (1000, 1000)


def test_fine_tuning_in_mini_batches_and_cancelled(gptj: LoadedModel) -> None:
    seen: list[int] = []
    hparams = {**TUNE, "batch_facts": 2, "stop_loss": 1e-6}
    monitor = Monitor(lambda _, done, total: seen.append(done))
    edit(gptj, FACTS, "ft-wd", hparams=hparams, monitor=monitor)
    assert seen == [*range(24), 24]
    monitor = Monitor(monitor.report, stop_if(lambda: seen[-1] == 5))
    with pytest.raises(Cancelled):
        edit(gptj, FACTS, "ft-wd", hparams=TUNE, monitor=monitor)


def test_decay_falls_with_the_number_of_facts() -> None:
    automatic = FtWdHParams(layer=1)
    assert automatic.decay(1) == pytest.approx(1.16870, rel=1e-4)
    assert automatic.decay(1000) == pytest.approx(1.16870 * 1000**-0.87028798, rel=1e-4)
    assert FtWdHParams(layer=1, weight_decay=0.0).decay(1000) == 0
