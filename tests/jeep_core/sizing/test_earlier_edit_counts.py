"""What earlier edits add to a plan: whole blocks of their keys are a part of the moment."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from jeep_core.moments.factors import MomentFactor
from jeep_core.sizing.architecture import Architecture, architecture_of
from jeep_core.sizing.demand import Editing, Settings, Workload, Written
from jeep_core.sizing.memory import factors_kept, need
from jeep_core.sizing.operations import Work, writing
from jeep_core.updates.least_squares import solve_update
from jeep_core.updates.operations import block_of

EDITING = Editing("memit", (Written("mlp", (3, 4), False, True),), 2, 20)
LOAD = Workload(facts=100)


@pytest.fixture(scope="module")
def arch() -> Architecture:
    sizes = {"n_embd": 1024, "n_layer": 8, "n_head": 16, "vocab_size": 50_000, "n_positions": 512}
    return architecture_of({"model_type": "gpt2", **sizes}, "a model")


def operations(work: Work) -> float:
    return work.matrix + work.single + work.double


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_an_edit_after_many_facts_costs_what_it_costs_after_some(
    arch: Architecture, device: str
) -> None:
    settings, block = Settings(dtype="float32", device=device), block_of(arch.d_ff)
    some, many = (replace(LOAD, earlier=count * block) for count in (1, 100))
    assert need(arch, EDITING, many, settings) == need(arch, EDITING, some, settings)
    work = [writing(arch, EDITING, one, settings) for one in (some, many)]
    assert work[0] == work[1]
    # not far from that after half a block, which are columns
    half = writing(arch, EDITING, replace(LOAD, earlier=block // 2), settings)
    assert operations(half) < operations(work[0]) < 2 * operations(half)


def test_memory_of_a_moment_with_kept_keys_is_what_it_holds(arch: Architecture) -> None:
    d_ff = 512
    count = block_of(d_ff)
    factor = MomentFactor(lambda: torch.eye(d_ff), "x")
    solve_update(torch.randn(1, d_ff), torch.randn(1, 8), factor, 1.0, torch.randn(count, d_ff))
    columns = 8 * d_ff
    held = factor.held_bytes - columns
    one = replace(EDITING, regions=(Written("mlp", (3,), False, True),))
    settings = Settings(dtype="float32", device="cpu", factor_bytes=0)
    counted = factors_kept(arch, one, replace(LOAD, earlier=block_of(arch.d_ff)), settings)
    assert held / d_ff**2 == counted / arch.d_ff**2
