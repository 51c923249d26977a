"""The closed-form solve: ``python -m bench.library.solve --d-ff 1728 11008``.

Ours is what an edit does: the factor of the second moment is kept.  The yardstick forms and
factors λC + K Kᵀ again (Cholesky, not the dearer LU of the published code).  Matrices are random,
symmetric positive definite, with eigenvalues spaced evenly in the logarithm and eigenvectors
turned by random reflections, so their condition number is exact.  ``--d-ff`` gives the sizes for
one fact; one after earlier edits is solved at the largest, at most 4096, and the crossover of the
two forms is always searched at 2048.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import torch

from bench.report import Row, table
from jeep_core.moments.factors import MomentFactor
from jeep_core.updates.least_squares import _Dense, _Small, solve_update
from jeep_core.updates.operations import (
    block_of,
    dense_form_operations,
    small_form_operations,
)

SIZES = (1728, 4096, 11008)
CONDITION = 1e6
WEIGHT = 15_000.0
HIDDEN = 64
EARLIER = 512
CROSSOVER_D_FF = 2048


def run(repeats: int, sizes: Sequence[int] = SIZES) -> list[Row]:
    """One fact at each size, one fact after earlier edits, and where the forms cross."""
    rows = [single_fact(d_ff, repeats) for d_ff in sizes]
    return [*rows, after_edits(min(4096, max(sizes)), repeats), crossover(repeats)]


def single_fact(d_ff: int, repeats: int) -> Row:
    """One new key against a fresh d_ff×d_ff solve."""
    factor = MomentFactor(random_moment(d_ff), "bench")
    factoring = seconds(lambda: factor.lower)
    ours, theirs, differences = [], [], []
    for repeat in range(repeats):
        key, residual = random_rows(1, d_ff, repeat), random_rows(1, HIDDEN, repeat + 1)
        began = time.perf_counter()
        solution = solve_update(key, residual, factor, WEIGHT)
        ours.append(time.perf_counter() - began)
        began = time.perf_counter()
        expected = fresh_solve(key, factor.stored)
        theirs.append(time.perf_counter() - began)
        differences.append(float((solution.right - expected).norm() / expected.norm()))
    note = (
        f"condition {CONDITION:.0e}, relative difference at most {max(differences):.0e}; "
        f"factored once in {factoring:.2g} s"
    )
    return _row(f"solve, one fact, d_ff {d_ff}", ours, theirs, note)


def fresh_solve(keys: torch.Tensor, moment: torch.Tensor) -> torch.Tensor:
    """(λC + K Kᵀ)⁻¹ K from nothing."""
    full = torch.addmm(moment, keys.T, keys, beta=WEIGHT)
    lower = torch.linalg.cholesky(full)
    half = torch.linalg.solve_triangular(lower, keys.T, upper=False)
    solution: torch.Tensor = torch.linalg.solve_triangular(lower.T, half, upper=True)
    return solution


def after_edits(d_ff: int, repeats: int) -> Row:
    """One fact that keeps earlier keys, with their half-solved columns kept or not.

    They are ``EARLIER``, or as many as are columns yet: a whole block of kept keys is summed.
    """
    factor = MomentFactor(random_moment(d_ff), "bench")
    count = min(EARLIER, block_of(d_ff) - 1)
    earlier = random_rows(count, d_ff, 0)
    ours: list[float] = []
    theirs: list[float] = []
    for repeat in range(repeats):
        key, residual = random_rows(1, d_ff, repeat + 1), random_rows(1, HIDDEN, repeat)
        for known, times in ((earlier, ours), (earlier[:0], theirs)):
            factor.half_solved(known, torch.float64)
            began = time.perf_counter()
            solve_update(key, residual, factor, WEIGHT, earlier)
            times.append(time.perf_counter() - began)
    note = f"yardstick: the same solve with all {count} columns solved again"
    return _row(f"solve, one fact after {count}, d_ff {d_ff}", ours, theirs, note)


def crossover(repeats: int) -> Row:
    """The number of new keys, as a share of d_ff, from which the dense form is quicker."""
    d_ff = CROSSOVER_D_FF
    factor = MomentFactor(random_moment(d_ff), "bench")
    sizes = range(d_ff // 8, d_ff + 1, d_ff // 16)
    small_form = small_form_operations
    counted = next(
        m
        for m in range(1, 2 * d_ff)
        if small_form(d_ff, m, m, m) > dense_form_operations(d_ff, m, m)
    )
    found = []
    for _ in range(repeats):
        slower = [
            m for m in sizes if _form_seconds(factor, _Small, m) > _form_seconds(factor, _Dense, m)
        ]
        found.append(next((m for m in sizes if m in slower), 2 * d_ff) / d_ff)
    note = "m/d_ff at which the forms cost the same: measured (grid of 1/16) against counted"
    ratios = [share * d_ff / counted for share in found]
    return Row(
        f"solve, crossover of the forms, d_ff {d_ff}",
        statistics.median(found),
        counted / d_ff,
        "m/d_ff",
        statistics.median(ratios),
        min(ratios),
        max(ratios),
        note,
        better="near one",
    )


def _form_seconds(factor: MomentFactor, form: type[_Small] | type[_Dense], m: int) -> float:
    rows = random_rows(m, len(factor.stored), m)
    factor.half_solved(rows[:0], torch.float64)
    return seconds(lambda: form(rows, factor, WEIGHT, torch.float64).first(m))


def random_moment(d_ff: int) -> torch.Tensor:
    """Eigenvalues 1 … 1/``CONDITION``, turned by three random reflections."""
    torch.manual_seed(d_ff)
    matrix = torch.diag(torch.logspace(0, -torch.tensor(CONDITION).log10(), d_ff).double())
    for _ in range(3):
        v = torch.randn(d_ff, dtype=torch.float64)
        v /= v.norm()
        image = matrix @ v
        image -= (v @ image) * v
        matrix.addr_(image, v, alpha=-2).addr_(v, image, alpha=-2)
    return matrix


def random_rows(n: int, size: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, size, dtype=torch.float64, generator=generator)


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _row(what: str, ours: list[float], theirs: list[float], note: str) -> Row:
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    return Row(
        what,
        statistics.median(ours),
        statistics.median(theirs),
        "s",
        statistics.median(ratios),
        min(ratios),
        max(ratios),
        note,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--d-ff", type=int, nargs="+", default=list(SIZES))
    args = parser.parse_args()
    print(table(run(args.repeats, args.d_ff)))


if __name__ == "__main__":
    main()
