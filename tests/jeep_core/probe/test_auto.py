"""The scale of a state, by which a learning rate is chosen."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.library import tiny

from jeep_core.editors import record_of
from jeep_core.models.views import ModelView
from jeep_core.probe.auto import RATE_SHARE, spread_of, suggest
from jeep_core.probe.bands import Band
from jeep_core.probe.prompts import prepare
from jeep_core.probe.proposal import Proposal
from jeep_core.spec.facts import Fact


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


def suggested(subject_share: float) -> dict[str, Any]:
    view = ModelView(tiny.random_model("llama"))
    subjects = ("Paris", "Lyon", "The old town", "3M", "Rome", "Oslo", "Lima", "Bern")
    facts = [Fact(one, "{} is a city in the country of", "Peru", "Norway") for one in subjects]
    band = Band([0.0], [0.0], [0.0])
    proposal = Proposal([1], [2], subject_share, band, [1], *(band,) * 5)
    return suggest(view, prepare(view, facts).prompts, proposal)


def test_every_region_has_the_rate_of_its_own_state() -> None:
    found = suggested(1.0)
    assert found["low"].get("learning_rate") is None
    rates = found["learning_rate"], found["high"]["learning_rate"]
    assert min(rates) > 0
    assert rates[0] != rates[1]
    assert max(rates) < RATE_SHARE * 100


@pytest.mark.parametrize(
    ("subject_share", "order", "clamp", "low", "high"),
    [
        (0.95, "separately", 0.25, 1.0, 1.0),
        (0.8, "separately", 0.25, 1.0, 1.0),
        (0.79, "together", 1.0, 0.2, 0.02),
    ],
)
def test_the_high_region_shares_an_edit_that_the_subject_cannot_carry(
    subject_share: float, order: str, clamp: float, low: float, high: float
) -> None:
    found = suggested(subject_share)
    mlp_size = tiny.random_model("llama").mlp_size
    assert found["high"]["clamp"] == clamp
    assert found["high"]["moment_weight"] == pytest.approx(high * mlp_size, rel=0.05)
    assert (found["low"]["clamp"], found["low"]["moment_weight"]) == (
        1.5,
        pytest.approx(low * mlp_size, rel=0.05),
    )
    rule = record_of("jeep").automatic
    assert rule is not None
    assert rule(found)["optimise"] == order
