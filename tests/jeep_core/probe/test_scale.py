"""The scale of a state, by which a learning rate is chosen."""

from __future__ import annotations

import pytest
import torch
from support.library import tiny

from jeep_core.models.views import ModelView
from jeep_core.probe.prompts import prepare
from jeep_core.probe.scale import measure, spread_of
from jeep_core.spec.facts import Fact

SUBJECTS = ("Paris", "Lyon", "The old town", "3M", "Rome", "Oslo", "Lima", "Bern")


def states(deviation: float, prompts: int = 32, size: int = 512) -> torch.Tensor:
    return deviation * torch.randn(prompts, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("deviation", [0.1, 3.0])
def test_the_spread_of_a_normal_distribution_is_its_deviation(deviation: float) -> None:
    assert spread_of(states(deviation)) == pytest.approx(deviation, rel=0.05)


def test_coordinates_that_are_always_large_do_not_count() -> None:
    found = states(3.0)
    found[:, 7] += 1e4
    found[:, 8] *= 1e3
    assert float(found.square().mean().sqrt()) > 400
    assert spread_of(found) == pytest.approx(3.0, rel=0.05)


def test_one_state_is_taken_at_its_size() -> None:
    one = states(3.0, prompts=1)
    assert spread_of(one) == pytest.approx(float(one.square().mean().sqrt()))
    assert spread_of(one.repeat(5, 1)) == spread_of(one)


def test_every_block_s_spread_is_measured_and_what_is_not_finite_left_out() -> None:
    view = ModelView(tiny.random_model("llama"))
    facts = [Fact(one, "{} is a city in the country of", "Peru", "Norway") for one in SUBJECTS]
    prompts = prepare(view, facts).prompts
    found = measure(view, prompts)
    assert set(found.spread) == {"subject_last", "prediction"}
    assert {len(values) for values in found.spread.values()} == {view.base.n_layers}
    assert all(value and value > 0 for values in found.spread.values() for value in values)
    assert found.spread["subject_last"] != found.spread["prediction"]
    name = view.base.family.weight_name(2)
    broken = ModelView(view.base, {name: torch.full_like(view.model.get_parameter(name), 3e38)})
    spread = measure(broken, prompts).spread["prediction"]
    assert spread[:2] == found.spread["prediction"][:2]
    assert spread[-1] is None
