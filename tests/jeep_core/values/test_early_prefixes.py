"""Facts that are asked after their first prefixes alone until the answer is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from support.library import reference

from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView
from jeep_core.spec.facts import Fact
from jeep_core.spec.hparams import Region
from jeep_core.spec.positions import fact_rows
from jeep_core.values.asked import Texts
from jeep_core.values.batch import Pool
from jeep_core.values.optimiser import FactTokens, Objective, Values, optimise

PREFIXES = ("", "The river is wide", "I", "An old map of the north")
FACTS = (
    Fact("Paris", "{} is a city in the country of", "Peru"),
    Fact("São Paulo", "People who live in {} are at home in", "Norway, or in the towns near 東京"),
    Fact("東京", "The capital of Japan is {}", "old"),
    Fact("3M", "{}'s", "1984"),
)
LOW = Region(layers=(0, 1), clamp=3.0, moment_weight=1, weight_decay=0.1)
HIGH = Region(layers=(2,), clamp=1.5, moment_weight=1, weight_decay=0.25)
ADAM = Objective(
    LOW, HIGH, n_steps=12, learning_rate=0.5, kl_weight=0.5, stop_probability=0.006,
    early_prefixes=1,
)  # fmt: skip
NEWTON = replace(ADAM, optimizer="newton", n_steps=20)


def tokens(base: LoadedModel, prefixes: Sequence[str] = PREFIXES) -> list[FactTokens]:
    return [FactTokens(*fact_rows(base.tokenizer, fact, tuple(prefixes))) for fact in FACTS]


def losses_of(values: Values, fact: int) -> list[float]:
    return [float(loss[index == fact]) for index, loss in values.trace if fact in index.tolist()]


@pytest.mark.parametrize("count", [1, 2])
def test_every_step_equals_a_plain_recomputation(base: LoadedModel, count: int) -> None:
    objective, facts = replace(ADAM, early_prefixes=count), tokens(base)
    values = optimise(ModelView(base), facts, objective)
    assert values.delta_high is not None
    for i, fact in enumerate(facts):
        plain = reference.optimise_one(base.model, fact, objective)
        assert losses_of(values, i) == pytest.approx(plain.losses, rel=1e-4)
        assert plain.delta_high is not None
        for found, expected in (
            (values.delta_low[i], plain.delta_low),
            (values.delta_high[i], plain.delta_high),
            (values.low[i], plain.low),
        ):
            assert torch.allclose(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("objective", [ADAM, NEWTON], ids=["adam", "newton"])
def test_other_facts_do_not_matter(base: LoadedModel, objective: Objective) -> None:
    """Alone, in pairs, or beside facts that are asked with all their prefixes already."""
    facts = tokens(base)
    whole = optimise(ModelView(base), facts, objective)
    for size in (1, 2):
        parts = optimise(ModelView(base), facts, objective, batch_facts=size)
        assert torch.equal(parts.steps, whole.steps)
        assert torch.allclose(parts.delta_low, whole.delta_low, rtol=1e-3, atol=1e-3)
        assert torch.allclose(parts.losses, whole.losses, rtol=1e-3)


@pytest.mark.parametrize("objective", [ADAM, NEWTON], ids=["adam", "newton"])
def test_the_last_pass_asks_all_rows(gptj: LoadedModel, objective: Objective) -> None:
    """What is recorded is what a pass over all rows measures at the vectors that were found."""
    facts = tokens(gptj)
    values = optimise(ModelView(gptj), facts, objective)
    assert values.delta_high is not None
    for i, fact in enumerate(facts):
        model = gptj.model
        logs = []
        for row in fact.rows:
            with (
                torch.no_grad(),
                reference.adding(model, 1, row.subject_last, values.delta_low[i]),
                reference.adding(model, 2, row.prediction, values.delta_high[i]),
            ):
                read = reference.log_probabilities(model, row)
            places = range(row.prediction, row.prediction + row.n_target)
            logs.append(torch.stack([read[p, row.ids[p + 1]] for p in places]).mean())
        probability = float(torch.stack(logs).exp().mean())
        assert float(values.probabilities[i]) == pytest.approx(probability, rel=1e-3)
        done = int(values.steps[i]) < objective.n_steps
        assert not done or objective.optimizer == "newton" or probability >= 0.006


def test_the_first_steps_are_those_of_fewer_prefixes(gptj: LoadedModel) -> None:
    """To the rounding: the same vectors, asked the same rows."""
    few = optimise(ModelView(gptj), tokens(gptj, PREFIXES[:2]), replace(ADAM, early_prefixes=None))
    first = optimise(ModelView(gptj), tokens(gptj), replace(ADAM, early_prefixes=2))
    for i in range(len(FACTS)):
        alone = losses_of(few, i)
        both = losses_of(first, i)
        same = min(len(alone), ADAM.n_steps // 2)
        assert both[:same] == pytest.approx(alone[:same], rel=1e-4)
        assert len(both) >= same > 2


@pytest.mark.parametrize("count", [4, 9])
def test_as_many_prefixes_as_there_are_change_nothing(gptj: LoadedModel, count: int) -> None:
    all_rows = optimise(ModelView(gptj), tokens(gptj), replace(ADAM, early_prefixes=None))
    found = optimise(ModelView(gptj), tokens(gptj), replace(ADAM, early_prefixes=count))
    assert torch.equal(found.delta_low, all_rows.delta_low)
    assert torch.equal(found.steps, all_rows.steps)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_no_fact_takes_more_passes_than_there_are_steps(gptj: LoadedModel, steps: int) -> None:
    never = replace(ADAM, n_steps=steps, stop_probability=1.0)
    values = optimise(ModelView(gptj), tokens(gptj), never)
    assert values.steps.tolist() == [steps] * len(FACTS)
    # every pass but the last one is followed by an update
    assert bool(values.delta_low.abs().sum() > 0) is (steps > 1)


@pytest.mark.parametrize("objective", [ADAM, NEWTON], ids=["adam", "newton"])
def test_half_of_the_passes_ask_all_rows(gptj: LoadedModel, objective: Objective) -> None:
    """Also of facts that never stop: those with few rows are no longer than the other half."""
    view, seen = ModelView(gptj), []
    blocks = gptj.family.layers_of(view.model)
    blocks[3].register_forward_pre_hook(lambda m, args: seen.append(args[0].shape[:2].numel()))
    never = replace(objective, n_steps=9, stop_probability=1.0)
    values = optimise(view, tokens(gptj)[:1], never)
    steps = seen[-int(values.steps[0]) :]
    assert steps.count(min(steps)) <= 4
    assert steps[-1] == max(steps) > min(steps)


def test_the_weight_of_answers_that_few_rows_wrote_is_not_that_of_all(gptj: LoadedModel) -> None:
    """PMET's: once all answers are written their likelihood counts a tenth, of few rows or of
    all; a row that has not been asked yet counts whole."""
    facts = tokens(gptj)
    at_once = replace(ADAM, stop_probability=1e-9)
    pool = Pool(ModelView(gptj), facts, at_once, None)
    pool.admit(range(len(facts)))
    assert pool.early is not None
    pool.early.nll_weight = torch.full((len(facts),), 0.1)
    assert pool.step() == 0
    assert len(pool.early) == 0
    assert pool.last.nll_weight.tolist() == [1.0] * len(facts)


@pytest.mark.parametrize("objective", [ADAM, NEWTON], ids=["adam", "newton"])
def test_all_texts_are_asked_when_enough_facts_wait_for_it(
    gptj: LoadedModel, objective: Objective
) -> None:
    """Half as many as are asked after the first prefixes, or all that are left."""
    pool = Pool(ModelView(gptj), tokens(gptj), replace(objective, stop_probability=1e-9), None)
    pool.admit([0, 1])
    pool.step()
    assert pool.early is not None
    assert (len(pool.early), len(pool.last)) == (0, 2)
    pool.objective = pool.early.objective = objective
    # a third fact is asked after few prefixes while the two wait, for there are enough of them
    pool.admit([2])
    waiting = pool.last.passes.clone()
    pool.step()
    assert torch.equal(pool.last.passes, waiting + 1)
    assert pool.early.passes.tolist() == [0]


def test_facts_that_leave_for_want_of_memory_are_those_that_came_less_far(
    gptj: LoadedModel,
) -> None:
    pool = Pool(ModelView(gptj), tokens(gptj), replace(ADAM, stop_probability=1e-9), None)
    pool.admit([0, 1])
    pool.step()
    pool.admit([2])
    assert pool.evict(2) == [2]
    assert pool.evict(1) == [1]
    assert pool.last.index.tolist() == [0]


def test_memory_is_bounded_where_all_texts_are_asked(base: LoadedModel) -> None:
    """A token that sees those of few texts holds less than one that sees those of all."""
    facts = tokens(base, ("", *("An old map of the north, and of the towns by the sea",) * 9))
    like = [facts[1]] * 8
    never = replace(ADAM, stop_probability=1.0)
    whole = optimise(ModelView(base), like[:1], replace(never, early_prefixes=None))
    # room for three facts and a part of a fourth
    bound = int(3.9 * whole.peak_bytes)
    found = optimise(ModelView(base), like, never, memory_bytes=bound)
    assert max(len(index) for index, _ in found.trace) == 3
    assert whole.peak_bytes < found.peak_bytes <= bound
    one_by_one = optimise(ModelView(base), like[:2], never, batch_facts=1)
    assert torch.allclose(found.delta_low[:2], one_by_one.delta_low, rtol=1e-3, atol=1e-3)


def test_early_passes_run_fewer_tokens(gptj: LoadedModel) -> None:
    view, seen = ModelView(gptj), []
    blocks = gptj.family.layers_of(view.model)
    blocks[3].register_forward_pre_hook(lambda m, args: seen.append(args[0].shape[:2].numel()))
    values = optimise(view, tokens(gptj)[:1], ADAM)
    steps = seen[-int(values.steps[0]) :]
    assert max(steps[:-1]) == steps[0] < steps[-1] / 2


def test_texts_are_chosen_from_each_context() -> None:
    texts = Texts(rows=7, chat=3)
    assert texts.first(2) == [0, 1, 4, 5, 7]
    assert texts.at_most(2) == Texts(rows=4, chat=2)
    assert texts.first(4) == [0, 1, 2, 3, 4, 5, 6, 7]
    assert texts.at_most(4) == texts
