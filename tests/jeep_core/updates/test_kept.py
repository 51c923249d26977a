"""Kept keys as a part of the second moment: the direct form's result, whatever was kept before."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from jeep_core.errors import NumericalError
from jeep_core.moments.factors import FactorCache, MomentFactor
from jeep_core.updates.kept import KeyRows
from jeep_core.updates.least_squares import solve_update
from jeep_core.updates.null_space import solve_in_null_space
from jeep_core.updates.operations import block_of

D, D_FF, WEIGHT, THRESHOLD, RIDGE = 7, 96, 15.0, 1.0, 10.0
BLOCK = block_of(D_FF)
COUNTS = (3, BLOCK - 1, BLOCK, BLOCK + 5, 2 * BLOCK, 3 * BLOCK + 40)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def moment() -> torch.Tensor:
    basis, _ = torch.linalg.qr(random(D_FF, D_FF, seed=1))
    return (basis * torch.logspace(1, -3, D_FF, dtype=torch.float64)) @ basis.T


EARLIER = random(4 * BLOCK, D_FF, seed=3)


def directly(keys: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    full = WEIGHT * moment() + kept.T @ kept + keys.T @ keys
    return torch.linalg.solve(full, keys.T)


def directly_in_null_space(keys: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    values, vectors = torch.linalg.eigh(moment())
    basis = vectors[:, values < THRESHOLD]
    inside = torch.cat([keys, kept]) @ basis
    full = inside.T @ inside + RIDGE * torch.eye(len(inside.T), dtype=torch.float64)
    return basis @ torch.linalg.solve(full, (keys @ basis).T)


def least_squares(factor: MomentFactor, keys: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    return solve_update(keys, random(len(keys), D), factor, WEIGHT, kept).right


def null_space(factor: MomentFactor, keys: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    residuals = random(len(keys), D)
    return solve_in_null_space(keys, residuals, factor, THRESHOLD, RIDGE, kept).right


Form = Callable[[MomentFactor, torch.Tensor, torch.Tensor], torch.Tensor]
Direct = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
BOTH = pytest.mark.parametrize(
    ("form", "direct"), [(least_squares, directly), (null_space, directly_in_null_space)]
)


def error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@BOTH
@pytest.mark.parametrize("m", [1, 20])
def test_every_number_of_kept_keys_gives_the_direct_form(
    form: Form, direct: Direct, m: int
) -> None:
    """One factor through all of them, as in a line of edits, and back again, as by a rollback."""
    factor, keys = MomentFactor(moment(), "x"), random(m, D_FF, seed=5)
    for count in (*COUNTS, *COUNTS[::-1]):
        kept = EARLIER[:count]
        assert error(form(factor, keys, kept), direct(keys, kept)) <= 1e-9


@BOTH
def test_bytes_do_not_depend_on_what_was_kept_before(form: Form, direct: Direct) -> None:
    factor, keys = MomentFactor(moment(), "x"), random(20, D_FF, seed=5)
    for count in COUNTS:
        found = form(factor, keys, EARLIER[:count])
        assert torch.equal(found, form(MomentFactor(moment(), "x"), keys, EARLIER[:count]))


@BOTH
def test_other_keys_and_other_weights_are_not_taken_for_those_that_were_kept(
    form: Form, direct: Direct
) -> None:
    factor, keys = MomentFactor(moment(), "x"), random(20, D_FF, seed=5)
    form(factor, keys, EARLIER[: 2 * BLOCK])
    without = torch.cat([EARLIER[:7], EARLIER[8 : 2 * BLOCK + 1]])  # one was edited again
    assert error(form(factor, keys, without), direct(keys, without)) <= 1e-9
    for weight in (1.0, 300.0):
        found = solve_update(keys, random(20, D), factor, weight, EARLIER[:BLOCK]).right
        full = weight * moment() + EARLIER[:BLOCK].T @ EARLIER[:BLOCK] + keys.T @ keys
        assert error(found, torch.linalg.solve(full, keys.T)) <= 1e-9


def test_float32_factors_are_corrected() -> None:
    factor, keys = MomentFactor(moment(), "x", torch.float32), random(20, D_FF, seed=5)
    for count in COUNTS:
        kept = EARLIER[:count]
        assert error(least_squares(factor, keys, kept), directly(keys, kept)) <= 1e-8


class Counted(KeyRows):
    """Keys that note which of them are read."""

    def __init__(self, tensor: torch.Tensor) -> None:
        super().__init__(tensor)
        self.read: list[tuple[int, int]] = []

    def rows(self, start: int, stop: int) -> torch.Tensor:
        self.read.append((start, stop))
        return super().rows(start, stop)


def test_summed_keys_are_not_read_again() -> None:
    factor, keys = MomentFactor(moment(), "x"), random(20, D_FF, seed=5)
    for count, expected in (
        (2 * BLOCK + 9, [(0, BLOCK), (BLOCK, 2 * BLOCK), (2 * BLOCK, 2 * BLOCK + 9)]),
        (2 * BLOCK + 30, [(2 * BLOCK, 2 * BLOCK + 30)]),
        (3 * BLOCK + 1, [(2 * BLOCK, 3 * BLOCK), (3 * BLOCK, 3 * BLOCK + 1)]),
    ):
        kept = Counted(EARLIER[:count])
        solve_update(keys, random(20, D), factor, WEIGHT, kept)
        assert [one for one in kept.read if one != (0, 1)] == expected


def test_a_key_that_is_not_finite_is_named_and_nothing_of_it_is_kept() -> None:
    factor, keys = MomentFactor(moment(), "layer 17"), random(20, D_FF, seed=5)
    broken = EARLIER[: 2 * BLOCK].clone()
    broken[BLOCK + 3, 5] = torch.inf
    least_squares(factor, keys, broken[:BLOCK])
    with pytest.raises(NumericalError, match=r"^layer 17: "):
        least_squares(factor, keys, broken)
    whole = EARLIER[: 2 * BLOCK]
    assert error(least_squares(factor, keys, whole), directly(keys, whole)) <= 1e-9


@BOTH
def test_what_all_layers_hold_is_within_the_limit(form: Form, direct: Direct) -> None:
    """Also after a layer that has come to hold more while it was used."""
    keys, kept = random(3, D_FF, seed=5), EARLIER[:BLOCK]
    alone = MomentFactor(moment, "x")
    form(alone, keys, kept)
    cache = FactorCache(D_FF, limit=(limit := 8 * alone.held_bytes // 5))
    for layer in range(4):
        cache.add(layer, MomentFactor(moment, f"layer {layer}"))
    cache.expect(range(4))
    for layer in (*range(4), *range(4)):
        found = form(cache.get(layer), keys, kept)
        assert error(found, direct(keys, kept)) <= 1e-9
        assert alone.held_bytes <= cache.memory.held_bytes() <= limit


def test_memory_does_not_grow_with_the_keys_and_counts_towards_the_limit() -> None:
    square = 8 * D_FF**2
    cache, keys = FactorCache(D_FF, limit=2 * square), random(20, D_FF, seed=5)
    for layer in range(2):
        cache.add(layer, MomentFactor(moment, f"layer {layer}"))
    held = []
    for count in (2 * BLOCK, 4 * BLOCK):
        for layer in range(2):
            factor = cache.get(layer)
            least_squares(factor, keys, EARLIER[:count])
            assert factor.solved_bytes <= 2 * square + 8 * D_FF * (BLOCK + 20)
        held.append(sum(one.held_bytes for one in cache.factors()))
    assert held[0] == held[1]
    assert held[0] <= 5 * square
