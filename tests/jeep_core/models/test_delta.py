"""Deltas: their two forms, their files, and the one function that makes edited matrices."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from jeep_core.models.delta import (
    BLOCK,
    Update,
    WeightDelta,
    materialise,
    summed,
    summed_at_once,
)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def update(out_size: int, in_size: int, m: int, seed: int = 0) -> Update:
    return Update.of(random(out_size, m, seed=seed), random(in_size, m, seed=seed + 100))


@pytest.mark.parametrize(
    ("m", "parts"),
    [(1, {"u": (6, 1), "v": (12, 1)}), (3, {"u": (6, 3), "v": (12, 3)}), (4, {"d": (6, 12)})],
)
def test_the_smaller_form_is_kept(m: int, parts: dict[str, tuple[int, ...]]) -> None:
    """Factors of (6, 12): 18 numbers per fact against 72."""
    made = update(6, 12, m)
    assert {name: tuple(tensor.shape) for name, tensor in made.parts().items()} == parts
    assert all(tensor.dtype == torch.float32 for tensor in made.parts().values())
    exact = random(6, m) @ random(12, m, seed=100).T
    assert torch.allclose(made.matrix(), exact, rtol=1e-5, atol=1e-5)
    assert made.matrix().dtype == torch.float64


def test_the_dense_form_is_rounded_once() -> None:
    exact = random(6, 5) @ random(12, 5, seed=100).T
    assert torch.equal(update(6, 12, 5).parts()["d"], exact.float())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("transposed", [False, True])
def test_a_matrix_is_the_rounded_sum(dtype: torch.dtype, transposed: bool) -> None:
    base = random(12, 6, seed=9).T if not transposed else random(12, 6, seed=9)
    base = base.contiguous().to(dtype)
    updates = [update(6, 12, 2), update(6, 12, 9, seed=1)]
    made = materialise(base, updates, transposed)
    total = base.double()
    for one in updates:
        total = total + (one.matrix().T if transposed else one.matrix())
    assert torch.equal(made, total.to(dtype))
    assert made.dtype == dtype
    assert made.shape == base.shape
    assert made.is_contiguous()


def test_many_small_updates_are_not_rounded_away() -> None:
    """Each of them is below half a unit in the last place of the 16-bit base."""
    base = torch.ones(4, 8, dtype=torch.float16)
    small = Update(dense=torch.full((4, 8), 2.0**-12))
    stepwise = base
    for _ in range(8):
        stepwise = materialise(stepwise, [small], transposed=False)
    assert torch.equal(stepwise, base)
    assert torch.equal(materialise(base, [small] * 8, False), base + 2.0**-9)


def test_the_order_given_is_the_order_of_the_sum() -> None:
    """In float64 1 + 1e20 - 1e20 is 0, but 1e20 - 1e20 + 1 is 1."""
    base = torch.ones(2, 4)
    big = [Update(dense=torch.full((2, 4), sign * 1e20)) for sign in (1, -1)]
    one = Update(dense=torch.ones(2, 4))
    assert torch.equal(materialise(base, [*big, one], False), torch.ones(2, 4))
    assert torch.equal(materialise(base, [one, *big], False), torch.zeros(2, 4))
    assert torch.equal(
        materialise(base, iter([*big, one]), False), materialise(base, [*big, one], False)
    )


def test_no_update_gives_the_base_and_leaves_it_alone() -> None:
    base = random(4, 8).float()
    before = base.clone()
    assert torch.equal(materialise(base, [], False), base)
    materialise(base, [update(4, 8, 1)], False)
    assert torch.equal(base, before)


def test_a_delta_survives_its_file_bit_for_bit(tmp_path: Path) -> None:
    delta = WeightDelta({"a.weight": update(6, 12, 2), "b.c.weight": update(6, 12, 9, seed=1)})
    delta.save(tmp_path / "delta.safetensors")
    loaded = WeightDelta.load(tmp_path / "delta.safetensors")
    assert set(delta.tensors()) == {"u.a.weight", "v.a.weight", "d.b.c.weight"}
    assert loaded.updates.keys() == delta.updates.keys()
    for name, made in delta.updates.items():
        again = loaded.updates[name].parts()
        assert again.keys() == made.parts().keys()
        assert all(torch.equal(again[part], tensor) for part, tensor in made.parts().items())
        base = random(6, 12, seed=5).to(torch.bfloat16)
        assert torch.equal(
            materialise(base, [made], False), materialise(base, [loaded.updates[name]], False)
        )


def test_an_empty_delta_has_no_tensors() -> None:
    assert WeightDelta().tensors() == {}
    assert WeightDelta.from_tensors({}).updates == {}


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("count", [64, 65, 150])
def test_a_sum_goes_on_from_whole_blocks_with_the_same_bytes(count: int, transposed: bool) -> None:
    base = random(*((12, 6) if transposed else (6, 12)), seed=9).float()
    updates = [update(6, 12, 4 if i % 7 == 0 else 1, seed=i) for i in range(count)]
    whole = summed(base, updates, transposed)
    for blocks in range(count // BLOCK + 1):
        start = summed(base, updates[: blocks * BLOCK], transposed).contiguous()
        assert torch.equal(summed(base, updates[blocks * BLOCK :], transposed, start), whole)
        made = materialise(base, updates[blocks * BLOCK :], transposed, start)
        assert torch.equal(made, whole.to(base.dtype))


def test_lines_of_one_block_are_summed_at_once_and_longer_ones_in_blocks() -> None:
    base = random(6, 12, seed=9).float()
    updates = [update(6, 12, 1, seed=i) for i in range(2 * BLOCK)]
    for count in (1, 5, BLOCK):
        some = updates[:count]
        assert torch.equal(summed(base, some, False), summed_at_once(base, some, False))
    assert not torch.equal(summed(base, updates, False), summed_at_once(base, updates, False))
