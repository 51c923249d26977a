"""Value optimisation against a plain reference that recomputes everything."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch
from support.library import reference, tiny

from jeep_core.errors import Cancelled, NumericalError
from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView
from jeep_core.monitor import Monitor, stop_if
from jeep_core.spec.facts import Fact
from jeep_core.spec.hparams import Region
from jeep_core.spec.positions import fact_rows
from jeep_core.values.optimiser import FactTokens, Objective, Values, optimise

PREFIXES = ("", "The river is wide", "I")
FACTS = (
    Fact("Paris", "{} is a city in the country of", "Peru"),
    Fact("São Paulo", "People who live in {} are at home in", "Norway, or in the towns near 東京"),
    Fact("東京", "The capital of Japan is {}", "old"),
    Fact("3M", "{}'s", "1984"),
    Fact("Reykjavík and Bogotá", "It is known that {} lies in", "the land of the Romans"),
)
LOW = Region(layers=(0, 1), clamp=3.0, moment_weight=1)
HIGH = Region(layers=(2,), clamp=1.5, moment_weight=1, weight_decay=0.25)
ONE_SITE = Objective(LOW, None, n_steps=6, learning_rate=0.5, kl_weight=0.5, stop_loss=0.05)
TWO_SITES = Objective(LOW, HIGH, n_steps=6, learning_rate=0.5, kl_weight=0.5, stop_probability=0.95)
OBJECTIVES = {"one": ONE_SITE, "two": TWO_SITES}


def tokens(base: LoadedModel, prefixes: tuple[str, ...] = PREFIXES) -> list[FactTokens]:
    return [FactTokens(*fact_rows(base.tokenizer, fact, prefixes)) for fact in FACTS]


def assert_near(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-4) -> None:
    assert found.shape == expected.shape
    assert (found - expected).norm() <= tolerance * expected.norm()


def assert_same(found: Values, expected: Values, tolerance: float = 1e-4) -> None:
    assert torch.equal(found.steps, expected.steps)
    for name in ("low", "high", "delta_low", "delta_high", "losses", "probabilities"):
        if getattr(expected, name) is None:
            assert getattr(found, name) is None
        else:
            assert_near(getattr(found, name), getattr(expected, name), tolerance)


def losses_of(values: Values, fact: int) -> list[float]:
    """The losses of one fact, step by step, out of the batch's trace."""
    return [
        float(loss[index == fact]) for index, loss in values.trace if bool((index == fact).any())
    ]


def assert_equals_plain(base: LoadedModel, facts: list[FactTokens], objective: Objective) -> Values:
    values = optimise(ModelView(base), facts, objective)
    for i, fact in enumerate(facts):
        plain = reference.optimise_one(base.model, fact, objective)
        assert losses_of(values, i) == pytest.approx(plain.losses, rel=1e-4)
        assert values.steps[i] == len(plain.losses)
        assert values.losses[i].item() == pytest.approx(plain.losses[-1], rel=1e-4)
        assert values.probabilities[i].item() == pytest.approx(plain.probability, rel=1e-3)
        assert_near(values.delta_low[i], plain.delta_low)
        assert_near(values.low[i], plain.low)
        if plain.high is None:
            assert values.high is None
            assert values.delta_high is None
        else:
            assert values.high is not None
            assert values.delta_high is not None
            assert plain.delta_high is not None
            assert_near(values.delta_high[i], plain.delta_high)
            assert_near(values.high[i], plain.high)
    return values


@pytest.mark.parametrize("sites", OBJECTIVES)
def test_every_step_equals_a_plain_recomputation(base: LoadedModel, sites: str) -> None:
    values = assert_equals_plain(base, tokens(base), OBJECTIVES[sites])
    assert values.delta_low.norm(dim=1).min() > 1


def test_the_high_target_can_be_read_literally(base: LoadedModel) -> None:
    """h* + δ* instead of the state at the optimum; nothing else differs."""
    facts, short = tokens(base)[:2], replace(TWO_SITES, n_steps=3)
    literal = assert_equals_plain(base, facts, replace(short, high_target="literal"))
    optimum = optimise(ModelView(base), facts, short)
    assert torch.equal(literal.low, optimum.low)
    assert literal.high is not None
    assert optimum.high is not None
    assert not torch.allclose(literal.high, optimum.high, rtol=1e-2)


def test_deltas_stay_within_their_clamps(gptj: LoadedModel) -> None:
    tight = replace(
        TWO_SITES,
        low=LOW.model_copy(update={"clamp": 0.2}),
        high=HIGH.model_copy(update={"clamp": 0.1}),
    )
    values = assert_equals_plain(gptj, tokens(gptj)[:2], tight)
    assert values.delta_high is not None
    h_low = values.low - values.delta_low
    ratio = values.delta_low.norm(dim=1) / h_low.norm(dim=1)
    assert ratio.max().item() == pytest.approx(0.2, rel=1e-4)


def test_one_pass_measures_and_changes_nothing(gptj: LoadedModel) -> None:
    values = assert_equals_plain(gptj, tokens(gptj)[:2], replace(TWO_SITES, n_steps=1))
    assert values.delta_low.abs().max() == 0
    assert values.steps.tolist() == [1, 1]


def test_a_view_is_optimised_on_its_own_weights(gptj: LoadedModel) -> None:
    """Not on those of the base: the reference is given the edited module."""
    view = ModelView(gptj)
    name = gptj.family.weight_name(2)
    view.replace(name, gptj.model.get_parameter(name) * -2)
    values = optimise(view, tokens(gptj)[:1], ONE_SITE)
    plain = reference.optimise_one(view.model, tokens(gptj)[0], ONE_SITE)
    assert_near(values.delta_low[0], plain.delta_low)


@pytest.mark.parametrize("sites", OBJECTIVES)
def test_order_and_size_of_batches_do_not_matter(base: LoadedModel, sites: str) -> None:
    facts, objective = tokens(base), OBJECTIVES[sites]
    whole = optimise(ModelView(base), facts, objective)
    for size in (1, 2):
        assert_same(optimise(ModelView(base), facts, objective, batch_facts=size), whole)
    order = torch.tensor([3, 0, 4, 2, 1])
    shuffled = optimise(ModelView(base), [facts[i] for i in order], objective)
    back = torch.argsort(order)
    for name in ("low", "delta_low", "losses", "probabilities"):
        assert_near(getattr(shuffled, name)[back], getattr(whole, name))
    assert torch.equal(shuffled.steps[back], whole.steps)


BY_PROBABILITY = replace(TWO_SITES, n_steps=12, stop_probability=0.006)
BY_LOSS = replace(TWO_SITES, n_steps=12, stop_probability=None, stop_loss=5.9)


@pytest.mark.parametrize("objective", [BY_PROBABILITY, BY_LOSS], ids=["probability", "loss"])
def test_finished_facts_leave_the_batch(gptj: LoadedModel, objective: Objective) -> None:
    """They stop after different numbers of passes, each exactly when the plain one does."""
    values = assert_equals_plain(gptj, tokens(gptj), objective)
    assert len(set(values.steps.tolist())) >= 3
    sizes = [len(index) for index, _ in values.trace]
    assert sizes == [int((values.steps > step).sum()) for step in range(len(sizes))]
    early = values.steps < 12
    if objective.stop_probability is not None:
        assert (values.probabilities[early] >= objective.stop_probability).all()
    if objective.stop_loss is not None:
        assert (values.losses[early] < objective.stop_loss).all()


def test_finished_facts_are_not_computed_any_more(gptj: LoadedModel) -> None:
    """The lines that the last block sees are those of the facts still in the batch."""
    view, seen = ModelView(gptj), []
    tiny.blocks(view.model)[3].register_forward_pre_hook(lambda m, args: seen.append(len(args[0])))
    values = optimise(view, tokens(gptj), BY_PROBABILITY)
    left = [int((values.steps > step).sum()) for step in range(int(values.steps.max()))]
    leading_and_left, per_step = seen[:2], seen[2:]
    # two passes ahead of the steps: what rows of a prefix share, and what is left of the subjects
    assert leading_and_left == [4, 5]
    assert per_step == left


@pytest.mark.parametrize("limit", [2, 3])
def test_waiting_facts_take_the_place_of_finished_ones(base: LoadedModel, limit: int) -> None:
    """Some are steps ahead of others they share a batch with; nothing changes for either."""
    mixed = replace(TWO_SITES, n_steps=9, stop_probability=0.006)
    values = optimise(ModelView(base), tokens(base), mixed, batch_facts=limit)
    assert_same(values, optimise(ModelView(base), tokens(base), mixed))
    sizes = [len(index) for index, _ in values.trace]
    assert max(sizes) == limit
    assert len(sizes) < sum(sizes) / limit + int(values.steps.max())


def test_batches_stay_within_the_memory_limit(gptj: LoadedModel) -> None:
    """Memory for two facts: never three together, and the count gives the memory held."""
    alone = optimise(ModelView(gptj), tokens(gptj), TWO_SITES, batch_facts=1)
    together = optimise(ModelView(gptj), tokens(gptj), TWO_SITES)
    assert together.peak_bytes > 3 * alone.peak_bytes > 0
    bound = int(2.2 * alone.peak_bytes)
    bounded = optimise(ModelView(gptj), tokens(gptj), TWO_SITES, memory_bytes=bound)
    assert alone.peak_bytes <= bounded.peak_bytes <= bound
    assert max(len(index) for index, _ in bounded.trace) >= 2
    assert_same(bounded, together)


def test_bfloat16_products_are_close_to_float32(gptj: LoadedModel) -> None:
    low = optimise(ModelView(gptj), tokens(gptj), replace(TWO_SITES, compute_dtype="bfloat16"))
    full = optimise(ModelView(gptj), tokens(gptj), TWO_SITES)
    assert low.delta_low.dtype == torch.float32
    assert not torch.equal(low.losses, full.losses)
    assert low.losses.tolist() == pytest.approx(full.losses.tolist(), rel=0.1)


def test_progress_counts_finished_facts(gptj: LoadedModel) -> None:
    told: list[tuple[str, int, int]] = []
    optimise(
        ModelView(gptj),
        tokens(gptj),
        BY_PROBABILITY,
        batch_facts=2,
        monitor=Monitor(lambda phase, done, total: told.append((phase, done, total))),
    )
    done = [entry[1] for entry in told]
    assert {(phase, total) for phase, _, total in told} == {("optimise", 5)}
    assert done == sorted(done)
    assert done[-1] == 5


@pytest.mark.parametrize("asks", [1, 3, 8])
def test_cancelling_stops_before_the_next_step(gptj: LoadedModel, asks: int) -> None:
    view, calls, passes = ModelView(gptj), [], []

    def asked() -> bool:
        calls.append(1)
        return len(calls) == asks

    tiny.blocks(view.model)[3].register_forward_hook(lambda *_: passes.append(1))
    monitor = Monitor(check=stop_if(asked))
    with pytest.raises(Cancelled):
        optimise(view, tokens(gptj), ONE_SITE, batch_facts=3, monitor=monitor)
    assert len(calls) == asks
    steps, batches = asks - 1, {1: 0, 3: 1, 8: 2}[asks]
    # the shared beginnings, a pass a step, and for every batch one over what is left of subjects
    assert len(passes) == 1 + steps + batches
    assert all(len(block._forward_hooks) <= 1 for block in tiny.blocks(view.model))


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
def test_nothing_of_the_optimisation_outlives_it(gptj: LoadedModel, objective: Objective) -> None:
    view = ModelView(gptj)
    optimise(view, tokens(gptj), objective)
    left = weakref.ref(view)
    del view
    gc.collect()
    assert left() is None


SCARCE = [
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
]


def out_of_memory_above(
    view: ModelView, lines: int, seen: list[int], error: RuntimeError = SCARCE[0]
) -> None:
    """Let the view's first block run out of memory, from a number of facts on.

    The first pass is over what all rows of a prefix share, and is let through.
    """

    def hook(module: Any, args: tuple[torch.Tensor, ...]) -> None:
        seen.append(len(args[0]))
        if len(seen) > 1 and len(args[0]) > lines:
            raise error

    tiny.blocks(view.model)[0].register_forward_pre_hook(hook)


@pytest.mark.parametrize("error", SCARCE, ids=["device", "host"])
def test_a_batch_that_does_not_fit_is_halved(gptj: LoadedModel, error: RuntimeError) -> None:
    """A line a fact: five do not fit, two do."""
    view, seen = ModelView(gptj), []
    out_of_memory_above(view, 2, seen, error)
    values = optimise(view, tokens(gptj), TWO_SITES)
    assert seen[1:] == [5, 2, 2, 1]
    assert_same(values, optimise(ModelView(gptj), tokens(gptj), TWO_SITES))


def test_a_single_fact_that_does_not_fit_is_an_error(gptj: LoadedModel) -> None:
    view = ModelView(gptj)
    out_of_memory_above(view, 0, [])
    with pytest.raises(torch.OutOfMemoryError):
        optimise(view, tokens(gptj), TWO_SITES)


def test_memory_that_runs_out_during_a_step_halves_too(gptj: LoadedModel) -> None:
    view, passes = ModelView(gptj), []

    def hook(module: Any, args: tuple[torch.Tensor, ...]) -> None:
        passes.append(len(args[0]))
        if len(passes) == 8:
            raise torch.OutOfMemoryError("out of memory")

    tiny.blocks(view.model)[3].register_forward_pre_hook(hook)
    values = optimise(view, tokens(gptj), TWO_SITES)
    assert_same(values, optimise(ModelView(gptj), tokens(gptj), TWO_SITES))


def test_a_loss_that_is_not_finite_names_its_fact_and_layer(gptj: LoadedModel) -> None:
    """A word that only the first fact has is broken."""
    facts = [tokens(gptj)[0], tokens(gptj)[2]]
    others = {i for row in (*facts[1].rows, facts[1].kl) for i in row.ids}
    view = ModelView(gptj)
    words = gptj.model.transformer.wte.weight.clone()
    words[next(i for i in facts[0].rows[0].ids if i not in others)] = torch.nan
    view.replace("transformer.wte.weight", words)
    layer = ONE_SITE.low.last
    message = rf"^layer {layer}: the loss of fact 1 of 2 after 0 steps is not finite"
    with pytest.raises(NumericalError, match=message):
        optimise(view, facts, ONE_SITE)
    assert optimise(view, facts[1:], ONE_SITE).steps.tolist() == [6]


@pytest.mark.parametrize("rate", [1e25, 1e300])
def test_a_step_that_is_not_finite_is_reported(gptj: LoadedModel, rate: float) -> None:
    """Its length is infinite: brought back to the limit, it would be zero."""
    objective = replace(ONE_SITE, learning_rate=rate)
    with pytest.raises(NumericalError, match="the loss after 1 step is not finite"):
        optimise(ModelView(gptj), tokens(gptj)[:1], objective)


@pytest.mark.parametrize("sites", OBJECTIVES)
def test_facts_without_prefixes_or_left_context_are_optimised(
    gpt2: LoadedModel, sites: str
) -> None:
    """A subject that is the first token: nothing is cached to its left."""
    fact = Fact("Paris", "{} is", "old")
    facts = [FactTokens(*fact_rows(gpt2.tokenizer, fact, [""]))]
    assert facts[0].rows[0].subject_last == 0
    assert_equals_plain(gpt2, facts, OBJECTIVES[sites])


def smallest_lead(
    base: LoadedModel, fact: FactTokens, objective: Objective, i: int, v: Values
) -> float:
    """How far every target token leads with the vectors of fact i, in nats, in its worst row."""
    leads = []
    high = objective.high.last if objective.high else objective.low.last
    for row in fact.rows:
        with (
            torch.no_grad(),
            reference.adding(base.model, objective.low.last, row.subject_last, v.delta_low[i]),
            reference.adding(
                base.model, high, row.prediction, None if v.delta_high is None else v.delta_high[i]
            ),
        ):
            found = reference.log_probabilities(base.model, row)
        for place in range(row.prediction, row.prediction + row.n_target):
            target = row.ids[place + 1]
            others = torch.cat([found[place, :target], found[place, target + 1 :]])
            leads.append(float(found[place, target] - others.max()))
    return min(leads)


def test_a_fact_stops_when_its_target_leads_by_the_margin_and_no_earlier(
    gptj: LoadedModel,
) -> None:
    # alone any of these would end every fact at once
    far = LOW.model_copy(update={"clamp": 30.0, "weight_decay": 0.0})
    eager = replace(TWO_SITES, low=far, n_steps=60, kl_weight=0.0, stop_loss=1e9)
    wide, facts = replace(eager, margin=2.0), tokens(gptj, ("",))
    found = optimise(ModelView(gptj), facts, wide)
    led = (found.steps < 60).nonzero().flatten().tolist()
    assert led, found.probabilities
    for i in led:
        steps = int(found.steps[i])
        assert steps > 1
        assert smallest_lead(gptj, facts[i], TWO_SITES, i, found) >= 2.0 - 1e-3
        earlier = optimise(ModelView(gptj), [facts[i]], replace(wide, n_steps=steps - 1))
        assert smallest_lead(gptj, facts[i], TWO_SITES, 0, earlier) < 2.0 + 1e-3
    # without a margin they end at once
    assert (optimise(ModelView(gptj), facts, eager).steps == 1).all()
