"""The cost of kept keys: ``python -m bench.library.kept --d-ff 1728 3072 --kept 1000 10000``.

The closed form of a batch on top of the keys of earlier edits, which grow by every batch, through
a whole block of kept keys and a batch more, so that a block is summed and factored once.  Beside
it the direct form of the same batch, with all kept keys as columns (the cheaper of both forms,
columns solved before taken as they are), once for every number of kept keys.  Keys are known by
name, as the service's are; a tensor that a caller hands over is hashed by every call.  Matrices are
those of ``bench.library.solve``.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass
from functools import partial

import torch

from bench.library.solve import WEIGHT, random_moment, random_rows, seconds
from jeep_core.moments.factors import MomentFactor
from jeep_core.updates.kept import KeyRows
from jeep_core.updates.least_squares import solve_update, solved
from jeep_core.updates.operations import block_of

SIZES, KEPT, BATCH, HIDDEN = (1728, 3072), (1000, 10_000), 100, 64


@dataclass(frozen=True)
class Measured:
    """Seconds of a batch: the mean, and its median, most and first one; of the direct form; the
    largest relative difference between both; MB that are held."""

    mean: float
    median: float
    most: float
    first: float
    direct: float
    difference: float
    held_mb: float


class Named(KeyRows):
    """Keys that are never hashed: those of one line, of which the first ones never change."""

    def digest(self, count: int) -> bytes:
        """The number, which says it all."""
        return str(count).encode()


def run(d_ff: int, kept: int, batch: int) -> Measured:
    """Batches of ``batch`` facts from ``kept`` kept keys on."""
    moment = random_moment(d_ff)
    factor = MomentFactor(moment, "bench")
    count = block_of(d_ff) // batch + 2
    every = random_rows(kept + count * batch, d_ff, 0)
    residuals = random_rows(batch, HIDDEN, 1)

    def update(number: int) -> torch.Tensor:
        at = kept + number * batch
        return solve_update(
            every[at : at + batch], residuals, factor, WEIGHT, Named(every[:at])
        ).right  # fmt: skip

    first = seconds(partial(update, 0))
    times = []
    for number in range(1, count):
        began = time.perf_counter()
        found = update(number)
        times.append(time.perf_counter() - began)
    at = kept + (count - 1) * batch
    rows = torch.cat([every[at : at + batch], every[:at]])
    other = MomentFactor(moment, "bench")
    other.half_solved(every[: at - batch], torch.float64)
    began = time.perf_counter()
    wanted = solved(rows, residuals.T, batch, other, WEIGHT).right
    direct = time.perf_counter() - began
    return Measured(
        statistics.mean(times),
        statistics.median(times),
        max(times),
        first,
        direct,
        float((found - wanted).norm() / wanted.norm()),
        factor.held_bytes / 1e6,
    )


def main() -> None:
    """Measure every size in turn and print one table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--d-ff", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--kept", type=int, nargs="+", default=list(KEPT))
    parser.add_argument("--batch", type=int, default=BATCH)
    args = parser.parse_args()
    print(f"| d_ff | kept keys | a batch of {args.batch}: mean | median | most | the first one |"
          " ratio of means | direct form | difference | held |")  # fmt: skip
    print("|---" * 10 + "|")
    for d_ff in args.d_ff:
        base = None
        for kept in args.kept:
            one = run(d_ff, kept, args.batch)
            base = base or one.mean
            print(
                f"| {d_ff} | {kept:,} | {one.mean:.3f} s | {one.median:.3f} s | {one.most:.2f} s "
                f"| {one.first:.2f} s | {one.mean / base:.2f} | {one.direct:.2f} s "
                f"| {one.difference:.0e} | {one.held_mb:,.0f} MB |",
                flush=True,
            )


if __name__ == "__main__":
    main()
