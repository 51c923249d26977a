"""Guarantees for every family, on tiny random models whose windows the prompts exceed.

The judge is ``tests/support/library/reference.py``: every row in full, one at a time, no batch
and no cache.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from support.library import reference, tiny

from jeep_core.decoding.generation import Sampling, generate, score_rows
from jeep_core.editing import edit
from jeep_core.editors.base import EditContext, EditorOutcome, Targets, write_region
from jeep_core.editors.memit.hparams import MemitHParams
from jeep_core.models.families import FAMILIES
from jeep_core.models.loading import LoadedModel, tensor_bytes
from jeep_core.models.views import ModelView
from jeep_core.moments.cache import Moments
from jeep_core.spec.facts import Fact
from jeep_core.spec.hparams import Region
from jeep_core.spec.positions import fact_rows
from jeep_core.updates.least_squares import solve_update
from jeep_core.values.keys import keys_and_states
from jeep_core.values.optimiser import FactTokens, Objective, Values, optimise

PREFIXES = ("", "The river is wide and the land around it is old")
FACTS = (
    Fact("Paris", "{} is a city in the country of", "Peru"),
    Fact("São Paulo", "People who live in {} are at home in", "Norway, near 東京"),
    Fact("3M", "{}'s", "1984"),
)
LOW = Region(layers=(0, 1), clamp=3.0, moment_weight=1)
HIGH = Region(layers=(2,), clamp=1.5, moment_weight=1)
OBJECTIVE = Objective(LOW, HIGH, n_steps=4, learning_rate=0.5, kl_weight=0.5, stop_probability=0.95)
HPARAMS = {
    "low": {"layers": [0, 1], "clamp": 2.0, "moment_weight": 5},
    "high": {"layers": [2], "clamp": 1.0, "moment_weight": 5},
    "n_steps": 4,
}
WITH_A_NORM = ("gemma2", "gemma3_text")


@pytest.fixture(scope="module", params=tiny.ALL_FAMILIES)
def model(request: pytest.FixtureRequest) -> LoadedModel:
    return tiny.random_model(request.param)


@pytest.fixture(scope="module", params=WITH_A_NORM)
def normed(request: pytest.FixtureRequest) -> LoadedModel:
    return tiny.random_model(request.param)


def tokens(base: LoadedModel, prefixes: tuple[str, ...] = PREFIXES) -> list[FactTokens]:
    return [FactTokens(*fact_rows(base.tokenizer, fact, prefixes)) for fact in FACTS]


def assert_near(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 2e-4) -> None:
    assert found.shape == expected.shape
    assert (found - expected).norm() <= tolerance * expected.norm()


def first_losses(values: Values) -> torch.Tensor:
    index, losses = values.trace[0]
    return losses[torch.argsort(index)]


def test_the_contract_covers_every_family() -> None:
    assert sorted(tiny.ALL_FAMILIES) == sorted(family.model_type for family in FAMILIES)


def test_the_tiny_models_have_what_makes_families_differ() -> None:
    for family in FAMILIES:
        base = tiny.random_model(family.model_type)
        config, longest = base.model.config, max(len(t.rows[0].ids) for t in tokens(base))
        if family.window != "none":
            assert config.sliding_window < longest
        if family.window == "by block":
            assert config.layer_types[2:] != config.layer_types[:2]
        if family.soft_cap:
            assert getattr(config, family.soft_cap) is not None
        tied = base.model.get_output_embeddings().weight is base.model.get_input_embeddings().weight
        assert tied == (base.model.config.tie_word_embeddings)


def test_values_equal_the_plain_ones_and_lower_the_loss(model: LoadedModel) -> None:
    facts = tokens(model)[:2]
    values = optimise(ModelView(model), facts, OBJECTIVE)
    for i, fact in enumerate(facts):
        plain = reference.optimise_one(model.model, fact, OBJECTIVE)
        assert values.losses[i].item() == pytest.approx(plain.losses[-1], rel=1e-4)
        assert values.probabilities[i].item() == pytest.approx(plain.probability, rel=1e-3)
        for name in ("low", "high", "delta_low", "delta_high"):
            assert_near(getattr(values, name)[i], getattr(plain, name))
    assert (values.losses < first_losses(values)).all()


def test_the_order_of_a_batch_does_not_matter(model: LoadedModel) -> None:
    facts, order = tokens(model), [2, 0, 1]
    short = replace(OBJECTIVE, n_steps=3)
    found = optimise(ModelView(model), [facts[i] for i in order], short, batch_facts=2)
    whole = optimise(ModelView(model), facts, short).select(order)
    for name in ("low", "high", "losses"):
        assert_near(getattr(found, name), getattr(whole, name))


@pytest.mark.parametrize("position", ["subject_last", "prediction"])
def test_keys_and_states_are_read_at_their_positions(model: LoadedModel, position: Any) -> None:
    rows = [fact.rows for fact in tokens(model)]
    keys, states = keys_and_states(ModelView(model), rows, position, 1, 2)
    for i, fact in enumerate(rows):
        key, state = reference.key_and_state(model.model, list(fact), position, 1, 2)
        assert_near(keys[i], key)
        assert_near(states[i], state)


def test_padding_on_either_side_changes_nothing(model: LoadedModel) -> None:
    """Scoring pads on the right, decoding on the left; the judge runs every row alone."""
    prompts = [fact.text for fact in FACTS]
    encoded = [model.tokenizer.encode(prompt).ids for prompt in prompts]
    assert len({len(ids) for ids in encoded}) == 3
    view = ModelView(model)
    scored = score_rows(view, [(ids, 1) for ids in encoded])
    written = generate(view, prompts, Sampling(max_new_tokens=3, temperature=1.0, seed=1))
    for ids, score, result in zip(encoded, scored, written, strict=True):
        row = [*ids, *[token.id for token in result.tokens]]
        with torch.no_grad():
            alone = model.model(input_ids=torch.tensor([row])).logits[0].log_softmax(dim=-1)
        wanted = torch.tensor(row[1:])
        each = alone[:-1].gather(1, wanted[:, None])[:, 0]
        assert score.log_probability == pytest.approx(float(each[: len(ids) - 1].sum()), rel=1e-4)
        told = [token.probability for token in result.tokens]
        assert told == pytest.approx(each[len(ids) - 1 :].exp().tolist(), rel=1e-3)


def write_one_layer(
    base: LoadedModel, layer: int, targets: torch.Tensor
) -> tuple[ModelView, EditorOutcome]:
    """Write targets (m, d) at one block with next to no weight on the previous content."""
    facts, moments = tokens(base, ("",)), Moments(base, tiny.TEXTS)
    moments.ensure([layer])
    context, outcome = EditContext(ModelView(base), facts, moments), EditorOutcome()
    region = Region(layers=(layer,), clamp=1, moment_weight=1e-7)
    hparams = MemitHParams(low=region)
    reached = Targets(targets)
    write_region(
        context, "low", region, "subject_last", reached, hparams, outcome, solve=solve_update
    )
    return context.view, outcome


def plain_states(model: Any, base: LoadedModel, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs of a block (m, d) and of its MLP (m, d), one row at a time."""
    states, outputs = [], []
    for fact in tokens(base, ("",)):
        row, seen = fact.rows[0], []
        handle = tiny.mlp_out(model, layer).register_forward_hook(
            lambda m, args, output, seen=seen: seen.append(output)
        )
        with reference.adding(model, layer, row.subject_last, None) as state, torch.no_grad():
            model(input_ids=torch.tensor([row.ids]))
        handle.remove()
        states.append(state[0])
        outputs.append(seen[0].reshape(len(row.ids), -1)[row.subject_last])
    return torch.stack(states), torch.stack(outputs)


def test_a_single_layer_arrives_at_the_value(model: LoadedModel) -> None:
    """W'k = v; where a norm follows the MLP, v is one of the states that it lets through."""
    before, outputs = plain_states(model.model, model, 1)
    other = torch.randn(before.shape, generator=torch.Generator().manual_seed(1))
    norm = model.family.norm_after(model.model, 1)
    with torch.no_grad():
        targets = before + (other if norm is None else norm(outputs + other) - norm(outputs))
    view, outcome = write_one_layer(model, 1, targets)
    after, _ = plain_states(view.model, model, 1)
    assert (targets - before).norm(dim=1).min() > 1
    assert_near(after, targets, 1e-3)
    assert outcome.layers[0].residual_after < 2e-3 * outcome.layers[0].residual_before


def test_after_a_norm_the_nearest_state_is_reached(normed: LoadedModel) -> None:
    """A norm fixes the length of what the MLP adds, so not every v can be had.

    Where z' ends, ‖a + N(z') - v‖ must not fall in any direction.
    """
    before, outputs = plain_states(normed.model, normed, 1)
    other = torch.randn(before.shape, generator=torch.Generator().manual_seed(1))
    targets = before + 2 * other
    view, outcome = write_one_layer(normed, 1, targets)
    after, reached = plain_states(view.model, normed, 1)
    norm = normed.family.norm_after(normed.model, 1)
    stream = before - norm(outputs)

    def slope(z: torch.Tensor) -> torch.Tensor:
        z = z.clone().requires_grad_(True)
        distance = (stream + norm(z) - targets).square().sum(dim=1)
        [gradient] = torch.autograd.grad(distance.sum(), z)
        return gradient.norm(dim=1) * z.detach().norm(dim=1) / distance.detach()

    assert (slope(outputs) > 0.1).all()
    assert (slope(reached) < 1e-3).all()
    assert (reached.norm(dim=1) - outputs.norm(dim=1)).abs().max() < 1e-3 * outputs.norm()
    assert ((after - targets).norm(dim=1) < (before - targets).norm(dim=1)).all()
    record = outcome.layers[0]
    assert record.residual_after == pytest.approx(float((targets - after).norm(dim=1).mean()), 1e-3)
    assert 0.1 * record.residual_before < record.residual_after < record.residual_before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("family", tiny.ALL_FAMILIES)
def test_an_edit_is_reverted_bit_by_bit(family: str, dtype: torch.dtype) -> None:
    base = tiny.random_model(family, dtype)
    state = {name: tensor_bytes(t) for name, t in base.model.state_dict(keep_vars=True).items()}
    places = {name: p.data_ptr() for name, p in base.model.named_parameters()}
    ids = torch.tensor([tokens(base)[0].rows[1].ids])
    with torch.no_grad():
        answer = base.model(input_ids=ids).logits
    moments = Moments(base, tiny.TEXTS * 3)
    result = edit(base, FACTS[:2], hparams=HPARAMS, prefixes=PREFIXES, moments=moments)
    assert result.values is not None
    assert (result.values.losses < first_losses(result.values)).all()

    view = ModelView(base)
    view.apply(result.delta)
    with torch.no_grad():
        edited = view.model(input_ids=ids).logits
        assert torch.equal(base.model(input_ids=ids).logits, answer)
    assert torch.isfinite(edited).all()
    assert not torch.equal(edited, answer)
    assert all(tensor.dtype == dtype for tensor in view.replaced.values())
    assert len(view.replaced) == 3
    for name in list(view.replaced):
        view.replace(name, base.model.get_parameter(name))
    with torch.no_grad():
        assert torch.equal(view.model(input_ids=ids).logits, answer)
    assert view.weights_sha256() == base.weights_sha256
    assert {n: tensor_bytes(t) for n, t in base.model.state_dict(keep_vars=True).items()} == state
    assert {name: p.data_ptr() for name, p in base.model.named_parameters()} == places
