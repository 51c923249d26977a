"""Newton's steps for the log-odds, and bfloat16 matrices, in value optimisation."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from support.library import tiny

from jeep_core.models.fused.rounding import Rounded, has_fast_bfloat16, in_bfloat16
from jeep_core.models.loading import LoadedModel, load
from jeep_core.models.views import ModelView, hooked
from jeep_core.spec.facts import Fact
from jeep_core.spec.hparams import Region
from jeep_core.spec.positions import fact_rows
from jeep_core.values.batch import Pool
from jeep_core.values.optimiser import FactTokens, Objective, optimise
from jeep_core.values.sites import LEAST, Site, Slopes, Trust, log_odds
from jeep_core.values.stage import PATIENCE

FACTS = (
    Fact("Paris", "{} is a city in the country of", "Peru"),
    Fact("3M", "{}'s", "1984"),
    Fact("Reykjavík and Bogotá", "It is known that {} lies in", "the land of the Romans"),
)
LOW = Region(layers=(0, 1), clamp=20.0, moment_weight=1, weight_decay=0.0)
NEWTON = Objective(
    LOW, None, n_steps=30, learning_rate=1, kl_weight=0, stop_probability=0.006, optimizer="newton"
)


def tokens(base: LoadedModel) -> list[FactTokens]:
    return [FactTokens(*fact_rows(base.tokenizer, fact, ("", "I"))) for fact in FACTS]


def a_site(vectors: int, size: int, rate: float = 100.0, clamp: float = 1e6) -> Site:
    region = LOW.model_copy(update={"clamp": clamp, "learning_rate": rate})
    site = Site(region, True, size, NEWTON)
    site.add(vectors)
    site.reference = torch.ones(vectors, size)
    return site


def stepped(
    sites: dict[str, Site], gradients: dict[str, torch.Tensor], loss: torch.Tensor, goal: float
) -> Trust:
    """Facts of these losses, after their first step."""
    trust = Trust(torch.device("cpu"))
    trust.add(len(loss))
    onwards(trust, sites, gradients, loss, goal)
    return trust


def onwards(
    trust: Trust,
    sites: dict[str, Site],
    gradients: dict[str, torch.Tensor],
    loss: torch.Tensor,
    goal: float = 3.0,
) -> None:
    """A step of all facts, after these losses and gradients were found at their vectors."""
    at = {name: site.vectors.value for name, site in sites.items()}
    moving = torch.ones_like(loss, dtype=torch.bool)
    trust.step(sites, Slopes(loss, at, gradients), goal, moving)


def odds(loss: torch.Tensor) -> torch.Tensor:
    p = torch.exp(-loss)
    return torch.log(p / (1 - p))


def test_log_odds_are_those_of_the_probability() -> None:
    losses = torch.tensor([12.0, 3.0, 0.5, 1e-3])
    assert torch.allclose(log_odds(losses), odds(losses.double()).float(), rtol=1e-4)
    assert log_odds(torch.tensor([0.0])).isfinite().all()


def test_where_log_odds_are_linear_one_step_reaches_the_goal() -> None:
    """p = σ(w·δ + b): from far below, from near and from above."""
    w, b = torch.tensor([0.3, -0.2, 0.5]), torch.tensor([-9.0, 0.5, -2.0])
    delta = torch.zeros(3, 3, requires_grad=True)
    loss = torch.nn.functional.softplus(-(delta @ w + b))
    [gradient] = torch.autograd.grad(loss.sum(), delta)
    site = a_site(3, 3)
    stepped({"low": site}, {"low": gradient}, loss.detach(), goal=3.0)
    after = torch.nn.functional.softplus(-(site.vectors.value @ w + b))
    assert odds(after).tolist() == pytest.approx([3.0] * 3, abs=1e-3)


def test_a_step_aims_at_some_gain_where_the_goal_is_reached() -> None:
    """At log-odds of 5 for a goal of 3, and a slope of 1 of the log-odds: ``LEAST`` further."""
    site, loss = a_site(1, 1), torch.tensor([math.log1p(math.exp(-5.0))])
    slope = torch.tensor([[math.expm1(-float(loss))]])
    stepped({"low": site}, {"low": slope}, loss, goal=3.0)
    assert float(site.vectors.value) == pytest.approx(LEAST, rel=1e-4)


def test_a_step_is_no_longer_than_adams_first() -> None:
    gradient, loss = torch.full((1, 4), 1e-3), torch.tensor([9.0])
    site = a_site(1, 4, rate=0.5)
    stepped({"low": site}, {"low": gradient}, loss, goal=3.0)
    assert site.vectors.value.tolist() == [[-0.5] * 4]


def test_a_step_that_made_it_worse_is_taken_back_and_halved() -> None:
    """Where the slope promised a gain at both ends, nothing says where between them it is."""
    site, gradient = a_site(1, 4, rate=1.0), torch.ones(1, 4)
    sites = {"low": site}
    trust = stepped(sites, {"low": gradient}, torch.tensor([9.0]), goal=3.0)
    assert site.vectors.value.tolist() == [[-1.0] * 4]
    onwards(trust, sites, {"low": gradient}, torch.tensor([9.5]))
    assert torch.allclose(site.vectors.value, torch.tensor([[-0.5] * 4]), atol=1e-6)
    onwards(trust, sites, {"low": gradient}, torch.tensor([9.5]))
    assert torch.allclose(site.vectors.value, torch.tensor([[-0.25] * 4]), atol=1e-6)


def test_a_step_that_went_too_far_tells_where_it_should_have_ended() -> None:
    """log-odds x - 2 - 5 (y - 0.1)²: the first step ends far from the ridge at y = 0.1.  By its
    slopes, (1, 1) at (0, 0) and (1, -9) at (1, 1), a fifth of it was the best; there the slope is
    (1, -1), along which the next one goes half as far."""

    def loss_at(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.softplus(2 - x[:, 0] + 5 * (x[:, 1] - 0.1) ** 2)

    site = a_site(1, 2, rate=1.0)
    start = torch.zeros(1, 2, requires_grad=True)
    [gradient] = torch.autograd.grad(loss_at(start).sum(), start)
    trust = stepped({"low": site}, {"low": gradient}, loss_at(start).detach(), goal=3.0)
    there = site.vectors.value.detach().clone().requires_grad_()
    assert there[0].tolist() == pytest.approx([1.0, 1.0], rel=1e-5)
    first, second = loss_at(start), loss_at(there)
    assert float(second.detach()) > float(first.detach())
    [gradient] = torch.autograd.grad(second.sum(), there)
    onwards(trust, {"low": site}, {"low": gradient}, second.detach())
    assert site.vectors.value[0].tolist() == pytest.approx([0.7, -0.3], rel=1e-3)


def test_the_reach_grows_after_a_gain_that_was_hoped_for() -> None:
    site, gradient = a_site(3, 4, rate=1.0), torch.ones(3, 4)
    sites = {"low": site}
    trust = stepped(sites, {"low": gradient}, torch.tensor([9.0, 9.0, 9.0]), goal=3.0)
    trust.reach = torch.tensor([0.2, 0.2, 0.2])
    trust.hoped = torch.tensor([2.0, 2.0, 2.0])
    onwards(trust, sites, {"low": gradient}, torch.tensor([7.5, 8.5, 9.5]))
    assert trust.reach.tolist() == pytest.approx([0.4, 0.2, 0.1])


def test_facts_that_do_not_move_stay_and_losses_of_other_rows_are_forgotten() -> None:
    site, gradient = a_site(2, 4, rate=1.0), torch.ones(2, 4)
    trust = stepped({"low": site}, {"low": gradient}, torch.tensor([9.0, 9.0]), goal=3.0)
    before = site.vectors.value.clone()
    at = {"low": site.vectors.value}
    found = Slopes(torch.tensor([8.0, 8.0]), at, {"low": gradient})
    trust.step({"low": site}, found, 3.0, torch.tensor([False, True]))
    assert torch.equal(site.vectors.value[0], before[0])
    assert not torch.equal(site.vectors.value[1], before[1])
    reach = trust.reach.clone()
    first, asked_more = torch.tensor([0]), Trust(torch.device("cpu"))
    asked_more.take(trust, first)
    site.keep(first)
    # a larger loss than that of fewer rows is no reason to take anything back
    onwards(asked_more, {"low": site}, {"low": gradient[:1]}, torch.tensor([9.5]))
    assert torch.allclose(site.vectors.value[0], before[0] - 1, atol=1e-6)
    assert float(asked_more.reach[0]) == float(reach[0])


def test_two_vectors_share_a_step() -> None:
    """Each goes by the square of its rate, and together they reach the goal."""
    w, b = torch.tensor([0.3, -0.2]), -4.0
    low, high = (torch.zeros(1, 2, requires_grad=True) for _ in range(2))
    loss = torch.nn.functional.softplus(-((low + high) @ w + b))
    gradients = torch.autograd.grad(loss.sum(), [low, high])
    sites = {"low": a_site(1, 2, rate=100.0), "high": a_site(1, 2, rate=300.0)}
    named = dict(zip(sites, gradients, strict=True))
    stepped(sites, named, loss.detach(), goal=2.0)
    moved = {name: site.vectors.value for name, site in sites.items()}
    assert torch.allclose(9 * moved["low"], moved["high"])
    after = torch.nn.functional.softplus(-((moved["low"] + moved["high"]) @ w + b))
    assert float(odds(after)) == pytest.approx(2.0, abs=1e-3)


def test_the_best_loss_falls_from_step_to_step(base: LoadedModel) -> None:
    """Of a random model, whose answers stay unlikely: no step is wasted, none does harm."""
    found = optimise(ModelView(base), tokens(base), NEWTON)
    for fact in range(len(FACTS)):
        losses = [float(loss[index == fact]) for index, loss in found.trace if fact in index]
        assert losses[-1] < losses[0] - 0.15
        worse = [b > a for a, b in pairwise(losses)]
        assert sum(worse) < len(losses) / 2
        assert losses[-1] == pytest.approx(min(losses), rel=0.05)


def test_newton_takes_fewer_passes_than_adam_to_a_shorter_vector() -> None:
    base = load("atlas-gptj", device="cpu")
    facts = [Fact("Paris", "{} is a city in the country of", "Peru")]
    rows = [FactTokens(*fact_rows(base.tokenizer, fact, ("",))) for fact in facts]
    region = Region(layers=(1, 2), clamp=3.0, moment_weight=1)
    goal = Objective(region, None, n_steps=50, learning_rate=1, kl_weight=0, stop_probability=0.9)
    adam = optimise(ModelView(base), rows, goal)
    found = optimise(ModelView(base), rows, replace(goal, optimizer="newton"))
    assert float(found.probabilities) >= 0.9
    assert int(found.steps) < int(adam.steps)
    assert float(found.delta_low.norm()) < float(adam.delta_low.norm())


@pytest.mark.parametrize("n_steps", range(2, 9))
def test_a_fact_keeps_the_best_that_was_measured(base: LoadedModel, n_steps: int) -> None:
    """Steps so long that some lead to a larger loss, and that may be the last one."""
    wild = replace(NEWTON, n_steps=n_steps, learning_rate=8, stop_probability=0.999)
    found = optimise(ModelView(base), tokens(base), wild)
    for fact in range(len(FACTS)):
        losses = [float(loss[index == fact]) for index, loss in found.trace if fact in index]
        assert float(found.losses[fact]) == pytest.approx(min(losses), rel=1e-5)
    again = optimise(ModelView(base), tokens(base), replace(wild, n_steps=1))
    state = found.low - again.low
    assert torch.allclose(state, found.delta_low, atol=1e-4)


def test_rates_of_any_size_overflow_nothing() -> None:
    site = a_site(1, 2, rate=1e300)
    stepped({"low": site}, {"low": torch.ones(1, 2)}, torch.tensor([2.0]), goal=3.0)
    assert site.vectors.value.isfinite().all()


def test_a_fact_that_gains_no_more_stops(gptj: LoadedModel) -> None:
    """A vector at its clamp cannot get better: the fact ends long before its last step."""
    tight = LOW.model_copy(update={"clamp": 0.01})
    found = optimise(ModelView(gptj), tokens(gptj), replace(NEWTON, low=tight))
    assert (found.probabilities < 0.006).all()
    assert int(found.steps.max()) <= 2 * PATIENCE + 2
    adam = replace(NEWTON, low=tight, optimizer="adam")
    assert optimise(ModelView(gptj), tokens(gptj), adam).steps.tolist() == [30] * 3


def test_bfloat16_matrices_are_a_views_own(base: LoadedModel) -> None:
    """Products differ by rounding; base, view and what is no matrix keep their type."""
    view = ModelView(base)
    before = view.weights_sha256()
    twin = in_bfloat16(view)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        exact = view.model(input_ids=ids).logits
        with torch.autocast("cpu", torch.bfloat16):
            near = twin.model(input_ids=ids).logits.float()
    assert 0 < float((near - exact).norm() / exact.norm()) < 0.05
    assert ModelView(base).weights_sha256() == before
    kinds = {p.dtype for _, p in twin.model.named_parameters()}
    assert kinds == {torch.bfloat16, torch.float32}
    name = base.family.weight_name(1)
    assert twin.model.get_parameter(name).dtype == torch.bfloat16
    assert view.model.get_parameter(name).dtype == torch.float32
    assert twin.model.get_input_embeddings().weight.dtype == torch.float32


@pytest.mark.parametrize("family", tiny.ALL_FAMILIES)
def test_a_float16_model_takes_bfloat16_products_on_a_cpu(family: str) -> None:
    """Sums of float16 states and bfloat16 products are float32, as layer norms must be then."""
    base = tiny.random_model(family, torch.float16)
    before = {name: p.dtype for name, p in base.model.named_parameters()}
    few = replace(NEWTON, n_steps=3, compute_dtype="bfloat16")
    near = optimise(ModelView(base), tokens(base), few)
    exact = optimise(ModelView(base), tokens(base), replace(few, compute_dtype="model"))
    gap = (near.delta_low - exact.delta_low).norm(dim=1) / exact.delta_low.norm(dim=1)
    assert float(gap.max()) < 0.2
    assert {name: p.dtype for name, p in base.model.named_parameters()} == before


def test_hooks_of_a_view_act_in_its_bfloat16_twin(gptj: LoadedModel) -> None:
    view, called = ModelView(gptj), []
    hook = tiny.blocks(view.model)[1].register_forward_hook(lambda *_: called.append(1))
    with hooked(hook), torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        in_bfloat16(view).model(input_ids=torch.tensor([[5, 6]]))
    assert called == [1]


def test_a_bfloat16_model_has_no_second_matrices(gptj: LoadedModel) -> None:
    view = in_bfloat16(ModelView(gptj))
    again = in_bfloat16(view)
    for name, tensor in view.model.named_parameters():
        assert again.model.get_parameter(name) is tensor


def test_what_a_processor_is_quick_at_is_read_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    for flags, quick in (({}, False), ({"amx_bf16": True}, True), ({"avx512_bf16": True}, True)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda flags=flags: flags)
        assert has_fast_bfloat16(cpu) is quick


def test_what_is_rounded_once_is_kept_until_it_is_written(gptj: LoadedModel) -> None:
    view, rounded = ModelView(gptj), Rounded()
    first = in_bfloat16(view, rounded)
    name, other = (gptj.family.weight_name(layer) for layer in (1, 2))
    view.replace(name, gptj.model.get_parameter(name) * 2)
    second = in_bfloat16(view, rounded)
    assert second.model.get_parameter(other) is first.model.get_parameter(other)
    written = second.model.get_parameter(name)
    assert torch.equal(written, view.model.get_parameter(name).to(torch.bfloat16))
    assert not torch.equal(written, first.model.get_parameter(name))


def test_plain_attention_is_the_pools_own(gptj: LoadedModel) -> None:
    """Only rows of an optimisation are short: second moments keep the model's kind."""
    view = ModelView(gptj)
    quick = replace(NEWTON, compute_dtype="bfloat16")
    kinds = [
        Pool(view, tokens(gptj), objective, None).stack.view.model.config._attn_implementation
        for objective in (quick, NEWTON)
    ]
    own = gptj.model.config._attn_implementation
    assert kinds == ["eager", own]
    assert view.model.config._attn_implementation == own
    assert in_bfloat16(view).model.config._attn_implementation == own
