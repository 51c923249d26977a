"""The closed form against a plain numpy reference, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from jeep_core.errors import NumericalError
from jeep_core.moments.factors import MomentFactor
from jeep_core.updates.least_squares import Solution, solve_update

D, D_FF, WEIGHT = 7, 40, 12.5


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def moment(seed: int = 1) -> torch.Tensor:
    samples = random(300, D_FF, seed=seed)
    return samples.T @ samples / len(samples)


def delta(solution: Solution) -> torch.Tensor:
    return solution.left @ solution.right.T


def reference(
    keys: torch.Tensor,
    residuals: torch.Tensor,
    c: torch.Tensor,
    weight: float,
    previous: torch.Tensor | None = None,
) -> NDArray[np.float64]:
    """R Kᵀ (λC + K Kᵀ + K_p K_pᵀ)⁻¹ by a plain inverse."""
    k, r = keys.numpy().T, residuals.numpy().T
    system = weight * c.numpy() + k @ k.T
    if previous is not None:
        system = system + previous.numpy().T @ previous.numpy()
    return np.asarray(r @ k.T @ np.linalg.inv(system))


def assert_close(found: torch.Tensor, expected: NDArray[np.float64]) -> None:
    assert np.linalg.norm(found.numpy() - expected) <= 1e-9 * np.linalg.norm(expected)


@pytest.mark.parametrize("m", [1, 5, 19, 20, 21, 60])
@pytest.mark.parametrize("p", [0, 3, 30])
def test_the_update_equals_the_plain_formula(m: int, p: int) -> None:
    """Both forms: m + p on either side of half of d_ff."""
    keys, residuals = random(m, D_FF), random(m, D, seed=2)
    previous = random(p, D_FF, seed=3) if p else None
    solution = solve_update(keys, residuals, MomentFactor(moment(), "x"), WEIGHT, previous)
    assert (solution.left.shape, solution.right.shape) == ((D, m), (D_FF, m))
    assert_close(delta(solution), reference(keys, residuals, moment(), WEIGHT, previous))


def test_the_small_form_equals_the_dense_form() -> None:
    """Previous keys of zero change nothing in the system but make the dense form the cheap one."""
    keys, residuals, factor = random(5, D_FF), random(5, D, seed=2), MomentFactor(moment(), "x")
    small = solve_update(keys, residuals, factor, WEIGHT)
    dense = solve_update(keys, residuals, factor, WEIGHT, torch.zeros(D_FF, D_FF))
    assert small.condition != dense.condition
    assert_close(delta(small), delta(dense).numpy())


def test_an_empty_set_of_previous_keys_is_none() -> None:
    keys, residuals, factor = random(5, D_FF), random(5, D, seed=2), MomentFactor(moment(), "x")
    empty = solve_update(keys, residuals, factor, WEIGHT, torch.empty(0, D_FF))
    assert torch.equal(delta(empty), delta(solve_update(keys, residuals, factor, WEIGHT)))


def test_float32_keys_are_solved_in_float64() -> None:
    keys, residuals = random(5, D_FF).float(), random(5, D, seed=2).float()
    solution = solve_update(keys, residuals, MomentFactor(moment().float(), "x"), WEIGHT)
    assert solution.right.dtype == solution.left.dtype == torch.float64
    expected = reference(keys.double(), residuals.double(), moment().float().double(), WEIGHT)
    assert_close(delta(solution), expected)


def test_a_small_weight_moves_the_keys_all_the_way() -> None:
    keys, residuals = random(5, D_FF), random(5, D, seed=2)
    solution = solve_update(keys, residuals, MomentFactor(moment(), "x"), 1e-9)
    assert torch.allclose(keys @ delta(solution).T, residuals, atol=1e-6)


@pytest.mark.parametrize("m", [5, 30])
def test_a_large_weight_moves_nothing(m: int) -> None:
    keys, residuals, factor = random(m, D_FF), random(m, D, seed=2), MomentFactor(moment(), "x")
    norms = [delta(solve_update(keys, residuals, factor, w)).norm() for w in (1.0, 1e6, 1e12)]
    assert norms[1] < 1e-4 * norms[0]
    assert norms[2] < 1e-10 * norms[0]


@pytest.mark.parametrize("m", [5, 30])
def test_previous_keys_are_preserved(m: int) -> None:
    """Many copies of the keys to be kept: what the update does to them all but vanishes."""
    keys, residuals, factor = random(m, D_FF), random(m, D, seed=2), MomentFactor(moment(), "x")
    kept = random(2, D_FF, seed=3)
    without = delta(solve_update(keys, residuals, factor, 1.0))
    once = delta(solve_update(keys, residuals, factor, 1.0, kept))
    often = delta(solve_update(keys, residuals, factor, 1.0, 1e4 * kept))
    effect = [float((kept @ update.T).norm()) for update in (without, once, often)]
    assert effect[1] < 0.7 * effect[0]
    assert effect[2] < 1e-5 * effect[0]
    still_learnt = (keys @ often.T - residuals).norm() / residuals.norm()
    assert still_learnt < 0.8


@pytest.mark.parametrize("m", [5, 30])
def test_a_singular_moment_is_an_error_that_names_the_layer(m: int) -> None:
    few = random(4, D_FF)
    factor = MomentFactor(few.T @ few / 4, "layer 17")
    with pytest.raises(NumericalError, match=r"^layer 17: .*second moment"):
        solve_update(random(m, D_FF), random(m, D), factor, 1.0)


@pytest.mark.parametrize("m", [5, 30])
def test_a_badly_conditioned_moment_is_an_error_that_names_the_layer(m: int) -> None:
    scales = torch.ones(D_FF, dtype=torch.float64)
    scales[-1] = 1e-16
    factor = MomentFactor(torch.diag(scales), "layer 17")
    keys = random(m, D_FF)
    keys[:, -1] = 0
    with pytest.raises(NumericalError, match=r"^layer 17: condition above 1e\+14"):
        solve_update(keys, random(m, D), factor, 1.0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("m", [5, 30])
@pytest.mark.parametrize("where", ["keys", "residuals", "moment", "previous"])
def test_what_is_not_finite_is_an_error_that_names_the_layer(
    where: str, m: int, bad: float
) -> None:
    given = {
        "keys": random(m, D_FF),
        "residuals": random(m, D),
        "moment": moment(),
        "previous": random(3, D_FF),
    }
    given[where][1] = bad
    factor = MomentFactor(given["moment"], "layer 17")
    with pytest.raises(NumericalError, match=r"^layer 17: "):
        solve_update(given["keys"], given["residuals"], factor, 1.0, given["previous"])


def test_the_condition_is_reported() -> None:
    scales = torch.ones(D_FF, dtype=torch.float64)
    scales[3] = 1e-6
    keys = torch.zeros(2, D_FF, dtype=torch.float64)
    solution = solve_update(keys, random(2, D), MomentFactor(torch.diag(scales), "x"), 1.0)
    assert solution.condition == pytest.approx(1e6)
