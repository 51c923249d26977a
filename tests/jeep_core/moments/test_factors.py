"""Kept factors: within a limit, on disk, in float32, with half-solved columns."""

from __future__ import annotations

import errno
import gc
import os
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from jeep_core.errors import NumericalError
from jeep_core.moments import factors, kept_moment
from jeep_core.moments.factors import FactorCache, FactorMemory, MomentFactor
from jeep_core.moments.kept_moment import KeptMoment
from jeep_core.updates import least_squares as solve
from jeep_core.updates.least_squares import Solution, solve_update
from jeep_core.updates.operations import dense_form_operations, small_form_operations

D, D_FF, WEIGHT = 7, 40, 12.5
SQUARE = 8 * D_FF**2


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def moment(condition: float = 1e3, seed: int = 1) -> torch.Tensor:
    """Random positive definite of this condition."""
    basis, _ = torch.linalg.qr(random(D_FF, D_FF, seed=seed))
    scales = torch.logspace(0, -float(torch.tensor(condition).log10()), D_FF, dtype=torch.float64)
    return (basis * scales) @ basis.T


def delta(solution: Solution) -> torch.Tensor:
    return solution.left @ solution.right.T


def close(found: Solution, expected: Solution, tolerance: float) -> bool:
    return bool((delta(found) - delta(expected)).norm() <= tolerance * delta(expected).norm())


def no_more(*args: Any) -> Any:
    raise AssertionError("was made again")


# ---------------------------------------------------------------- half-solved columns


def test_columns_of_earlier_keys_are_kept() -> None:
    factor = MomentFactor(moment(), "x")
    earlier, keys = random(6, D_FF), random(3, D_FF, seed=2)
    assert factor.unsolved(earlier) == 6
    factor.half_solved(earlier, torch.float64)
    together = torch.cat([keys, earlier[[4, 0, 2]]])
    assert factor.unsolved(together) == 3
    found = factor.half_solved(together, torch.float64)
    expected = torch.linalg.solve_triangular(factor.lower, together.T, upper=False)
    assert torch.allclose(found, expected, rtol=1e-12, atol=1e-14)
    assert factor.unsolved(together) == 0
    assert factor.unsolved(earlier) == 3


def test_the_same_key_twice_is_two_columns() -> None:
    factor = MomentFactor(moment(), "x")
    keys = random(2, D_FF)[[0, 1, 0]]
    for _ in range(2):
        found = factor.half_solved(keys, torch.float64)
        assert found.shape == (D_FF, 3)
        assert torch.allclose(found[:, 0], found[:, 2], rtol=1e-12)


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_edits_one_after_another_equal_fresh_ones(precision: torch.dtype) -> None:
    kept = MomentFactor(moment(), "x", precision)
    earlier = torch.empty(0, D_FF)
    for number in range(5):
        keys, residuals = random(2, D_FF, seed=10 + number), random(2, D, seed=number)
        fresh = MomentFactor(moment(), "x")
        found = solve_update(keys, residuals, kept, WEIGHT, earlier)
        assert close(found, solve_update(keys, residuals, fresh, WEIGHT, earlier), 1e-6)
        earlier = torch.cat([earlier.double(), keys])
    assert kept.unsolved(earlier) == 0


# ---------------------------------------------------------------- choice of the form


def test_the_forms_cross_where_the_count_says() -> None:
    """All keys new: at half of d_ff.  Few new ones: later, and later still with kept columns."""

    def crossing(m_of: Any, unsolved_of: Any) -> float:
        d = 1000
        return next(
            n / d
            for n in range(1, 3 * d)
            if small_form_operations(d, m_of(n), n, unsolved_of(n))
            > dense_form_operations(d, m_of(n), n)
        )

    assert crossing(lambda n: n, lambda n: n) == pytest.approx(0.51, abs=0.01)
    assert crossing(lambda n: 1, lambda n: n) == pytest.approx(0.67, abs=0.01)
    assert crossing(lambda n: 1, lambda n: 1) == pytest.approx(1.0, abs=0.01)


def test_the_cheaper_form_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    factor, residuals = MomentFactor(moment(), "x"), random(1, D)
    n = int(0.8 * D_FF)  # dear when all columns are new, cheap when one is
    keys, earlier = random(1, D_FF, seed=3), random(n - 1, D_FF)
    monkeypatch.setattr(solve, "_Small", no_more)
    solve_update(keys, residuals, factor, WEIGHT, earlier)
    factor.half_solved(earlier, torch.float64)
    monkeypatch.undo()
    monkeypatch.setattr(solve, "_Dense", no_more)
    solve_update(keys, residuals, factor, WEIGHT, earlier)


# ---------------------------------------------------------------- float32 with corrections


@pytest.mark.parametrize("condition", [1e1, 1e4])
@pytest.mark.parametrize(("m", "p"), [(1, 0), (5, 3), (30, 0), (5, 40)])
def test_float32_factors_give_float64_results(condition: float, m: int, p: int) -> None:
    keys, residuals, earlier = random(m, D_FF), random(m, D, seed=2), random(p, D_FF, seed=3)
    single = MomentFactor(moment(condition), "x", torch.float32)
    found = solve_update(keys, residuals, single, WEIGHT, earlier)
    exact = solve_update(keys, residuals, MomentFactor(moment(condition), "x"), WEIGHT, earlier)
    assert (found.precision, exact.precision) == (torch.float32, torch.float64)
    assert found.right.dtype == torch.float64
    assert close(found, exact, 1e-6)


@pytest.mark.parametrize("condition", [1e8, 1e10, 1e12])
@pytest.mark.parametrize("weight", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("m", [3, 30])
@pytest.mark.parametrize("typical", [False, True])
def test_what_float32_cannot_solve_is_solved_in_float64(
    condition: float, weight: float, m: int, typical: bool
) -> None:
    """Keys of any direction, or distributed as the moment says; taken or not, it is right."""
    keys, residuals = random(m, D_FF), random(m, D, seed=2)
    if typical:
        keys = keys @ MomentFactor(moment(condition), "x").lower.T
    single = MomentFactor(moment(condition), "x", torch.float32)
    found = solve_update(keys, residuals, single, weight, None)
    exact = solve_update(keys, residuals, MomentFactor(moment(condition), "x"), weight, None)
    assert found.precision is single.precision
    assert close(found, exact, 1e-6)
    if condition > 1e8 and m == 3:
        assert found.precision is torch.float64


def test_a_singular_moment_is_named_in_float32_too() -> None:
    few = random(4, D_FF)
    factor = MomentFactor(few.T @ few / 4, "layer 17", torch.float32)
    with pytest.raises(NumericalError, match=r"^layer 17: "):
        solve_update(random(3, D_FF), random(3, D), factor, 1.0)


def test_the_moment_times_a_matrix_is_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factors, "CHUNK_ROWS", 7)
    stored, right = moment().float(), random(D_FF, 3)
    found = MomentFactor(stored, "x").times(right)
    assert torch.allclose(found, stored.double() @ right, rtol=1e-13, atol=1e-15)


# ---------------------------------------------------------------- memory


class Loads:
    """A file of a moment that counts how often it is read."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> torch.Tensor:
        self.times += 1
        return moment().float()


def cache(limit: int | None, layers: int) -> tuple[FactorCache, dict[int, Loads]]:
    found, loads = FactorCache(D_FF, limit), {layer: Loads() for layer in range(layers)}
    for layer, load in loads.items():
        found.add(layer, MomentFactor(load, f"layer {layer}", torch.float64))
    found.expect(range(layers))
    return found, loads


def one_edit(cached: FactorCache, layers: int) -> list[Solution]:
    keys, residuals = random(1, D_FF), random(1, D)
    return [solve_update(keys, residuals, cached.get(layer), WEIGHT) for layer in range(layers)]


def test_factors_stay_within_the_limit() -> None:
    """Room for three of five: each edit finds two of them where it left them."""
    limit = 3 * SQUARE + 5 * 8 * D_FF
    cached, loads = cache(limit, 5)
    free, _ = cache(None, 5)
    for _ in range(4):
        for found, expected in zip(one_edit(cached, 5), one_edit(free, 5), strict=True):
            assert torch.equal(delta(found), delta(expected))
        assert cached.held_bytes() <= limit
    assert free.held_bytes() > limit
    made = sum(load.times for load in loads.values())
    assert made <= 5 + 3 * 3


def test_without_a_limit_each_factor_is_made_once() -> None:
    cached, loads = cache(None, 3)
    for _ in range(3):
        one_edit(cached, 3)
    assert [load.times for load in loads.values()] == [1, 1, 1]


def test_layers_no_longer_edited_go_first() -> None:
    cached, loads = cache(3 * SQUARE + 8 * D_FF * 4, 4)
    keys, residuals = random(1, D_FF), random(1, D)
    for layer in (0, 1, 2):
        solve_update(keys, residuals, cached.get(layer), WEIGHT)
    cached.expect([1, 2, 3])
    for layer in (3, 1, 2, 3):
        solve_update(keys, residuals, cached.get(layer), WEIGHT)
    assert [load.times for load in loads.values()] == [1, 1, 1, 1]
    assert cached.get(0).held_bytes == 0


def test_a_limit_below_one_factor_still_works() -> None:
    cached, _ = cache(1, 2)
    free, _ = cache(None, 2)
    for found, expected in zip(one_edit(cached, 2), one_edit(free, 2), strict=True):
        assert torch.equal(delta(found), delta(expected))
    assert cached.get(0).held_bytes == 0


def test_a_moment_that_cannot_be_loaded_again_is_not_dropped() -> None:
    factor = MomentFactor(moment(), "x")
    first = factor.lower
    factor.drop()
    assert factor.held_bytes == 0
    assert torch.equal(factor.lower, first)


# ---------------------------------------------------------------- several users


def users(limit: int | None, layers: int) -> tuple[FactorMemory, list[FactorCache], list[Loads]]:
    """Two users of one memory, and how often each moment was loaded."""
    memory, loads = FactorMemory(D_FF, limit), [Loads() for _ in range(layers)]
    both = [FactorCache(D_FF, memory=memory) for _ in range(2)]
    for user in both:
        for layer, load in enumerate(loads):
            kept = memory.shared(f"key {layer}", lambda load=load: KeptMoment(load, "x"))
            user.add(layer, MomentFactor(kept, "x", torch.float64))
        user.expect(range(layers))
    return memory, both, loads


def test_what_one_user_makes_serves_the_others() -> None:
    memory, (edits, trials), loads = users(None, 3)
    alone, _ = cache(None, 3)
    expected = one_edit(alone, 3)
    for user in (edits, trials, edits):
        for found, wanted in zip(one_edit(user, 3), expected, strict=True):
            assert torch.equal(delta(found), delta(wanted))
    assert [load.times for load in loads] == [1, 1, 1]
    assert edits.get(0).kept is trials.get(0).kept
    columns = 2 * 3 * 8 * D_FF
    assert memory.held_bytes() == 3 * SQUARE + columns


def test_the_limit_is_one_for_all_users_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads solve beside each other; before, each had the whole limit for itself."""
    limit = 3 * SQUARE + 2 * 5 * 8 * D_FF
    memory, both, _ = users(limit, 5)
    alone, _ = cache(None, 5)
    expected = [delta(found) for found in one_edit(alone, 5)]
    seen: list[int] = []
    wrong: list[int] = []
    solved = solve.solved

    def watched(*arguments: Any) -> Solution:
        found = solved(*arguments)
        seen.append(memory.held_bytes())
        return found

    monkeypatch.setattr(solve, "solved", watched)

    def work(user: FactorCache) -> None:
        for _ in range(10):
            found = [delta(one) for one in one_edit(user, 5)]
            wrong.extend(i for i, one in enumerate(found) if not torch.equal(one, expected[i]))

    threads = [Thread(target=work, args=(user,)) for user in both]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 2 * 10 * 5
    assert max(seen) <= limit
    assert wrong == []


def test_what_a_user_has_solved_is_its_own() -> None:
    """Else a trial would change which form of the system an edit takes, and with it the bits."""
    _, (edits, trials), _ = users(None, 1)
    keys, residuals = random(3, D_FF), random(3, D)
    solve_update(keys, residuals, edits.get(0), WEIGHT)
    assert edits.get(0).unsolved(keys.double()) == 0
    assert trials.get(0).unsolved(keys.double()) == 3
    solve_update(random(2, D_FF), random(2, D), trials.get(0), WEIGHT)
    assert edits.get(0).unsolved(keys.double()) == 0


def test_a_user_that_has_gone_holds_nothing() -> None:
    memory, both, _ = users(None, 2)
    one_edit(both[0], 2)
    one_edit(both[1], 2)
    before = memory.held_bytes()
    both.pop()
    gc.collect()
    assert memory.held_bytes() == before - 2 * 8 * D_FF


def test_null_spaces_count_and_are_dropped() -> None:
    memory, (edits, trials), loads = users(2 * SQUARE, 3)
    expected = [MomentFactor(moment().float(), "x").null_basis(1e9) for _ in range(3)]
    for user in (edits, trials):
        for layer in range(3):
            factor = user.get(layer)
            with factor.in_use():
                assert torch.equal(factor.null_basis(1e9), expected[layer])
                assert memory.held_bytes() <= 2 * SQUARE
    assert sum(load.times for load in loads) > 3


# ---------------------------------------------------------------- on disk


def test_a_large_factor_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_moment, "KEPT_ON_DISK_FROM", D_FF)
    path = tmp_path / "factor"
    made = MomentFactor(moment(), "x", path=path).lower
    monkeypatch.setattr(kept_moment, "cholesky", no_more)
    read = MomentFactor(moment(), "x", path=path).lower
    assert torch.equal(read, made)
    assert read.stride() == made.stride()


def test_a_small_factor_is_not_kept_on_disk(tmp_path: Path) -> None:
    assert len(MomentFactor(moment(), "x", path=tmp_path / "factor").lower) == D_FF
    assert list(tmp_path.iterdir()) == []


def test_a_broken_file_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(kept_moment, "KEPT_ON_DISK_FROM", D_FF)
    path = tmp_path / "factor"
    made = MomentFactor(moment(), "x", path=path).lower
    path.write_bytes(path.read_bytes()[:1000])
    assert torch.equal(MomentFactor(moment(), "x", path=path).lower, made)
    assert torch.equal(MomentFactor(moment(), "x", path=path).lower, made)
    assert [one.message.split(": ")[0] for one in caplog.records] == [
        f"{path} is damaged, it is made again"
    ]


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.EACCES, errno.ESTALE])
def test_a_file_that_cannot_be_read_now_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    def failing(*_: object) -> None:
        raise OSError(number, os.strerror(number), "factor")

    monkeypatch.setattr(kept_moment, "KEPT_ON_DISK_FROM", D_FF)
    path = tmp_path / "factor"
    made, before = MomentFactor(moment(), "x", path=path).lower, (path.read_bytes(), path.stat())
    with monkeypatch.context() as patch:
        patch.setattr(kept_moment, "load_whole", failing)
        assert torch.equal(MomentFactor(moment(), "x", path=path).lower, made)
    assert (path.read_bytes(), path.stat()) == before
    assert os.strerror(number) in caplog.text
    assert "damaged" not in caplog.text


def test_too_little_memory_to_read_a_factor_is_not_enough_to_make_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise SafetensorError("Cannot allocate memory (os error 12)")

    monkeypatch.setattr(kept_moment, "KEPT_ON_DISK_FROM", D_FF)
    path = tmp_path / "factor"
    made = MomentFactor(moment(), "x", path=path).lower
    with monkeypatch.context() as patch:
        patch.setattr(kept_moment, "load_whole", failing)
        with pytest.raises(SafetensorError):
            _ = MomentFactor(moment(), "x", path=path).lower
    monkeypatch.setattr(kept_moment, "cholesky", no_more)
    assert torch.equal(MomentFactor(moment(), "x", path=path).lower, made)
