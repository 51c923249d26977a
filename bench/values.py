"""Value optimisation against the published procedure: ``python -m bench.values``.

Yardsticks (``bench/plain.py``): one fact at a time with early stop, and plain batches of 32
that wait for their slowest fact.  The operation count of both sides is counted by torch, in
matrix products; what it allows is the ratio of the counts.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.plain import optimise_plain
from bench.report import Row, table
from bench.workload import alternating, median, workload
from jeep_core import atlas
from jeep_core.values import FactTokens, Objective, Values, optimise
from jeep_core.views import ModelView

FACTS = 256
YARDSTICK_FACTS = 32
"""The yardstick takes every eighth fact of the 256, so that it meets the same lengths."""


def run(repeats: int, facts: int = FACTS) -> list[Row]:
    """Both bundled models."""
    return [row for model in atlas.MODELS for row in compare(model, repeats, facts)]


def compare(model: str, repeats: int, count: int) -> list[Row]:
    """One model against both yardsticks."""
    base, facts, objective = workload(model, count)
    some = facts[:: max(1, count // YARDSTICK_FACTS)]
    view = ModelView(base)
    optimise(view, facts[:8], objective)
    rows = [
        _row(f"{model}, {count} facts, against one at a time", view, facts, some, objective, 1),
        _row(f"{model}, {count} facts, against a plain batch", view, facts, some, objective, 32),
    ]
    return [row(repeats) for row in rows]


def _row(
    what: str,
    view: ModelView,
    facts: Sequence[FactTokens],
    some: Sequence[FactTokens],
    objective: Objective,
    together: int,
) -> Callable[[int], Row]:
    found: dict[str, Values | torch.Tensor] = {}

    def ours() -> None:
        found["ours"] = optimise(view, facts, objective)

    def plain() -> None:
        found["plain"] = optimise_plain(view, some, objective, together)[0]

    def measure(repeats: int) -> Row:
        mine, theirs = alternating(ours, plain, repeats)
        a = [1000 * s / len(facts) for s in mine]
        b = [1000 * s / len(some) for s in theirs]
        ratios = [y / x for x, y in zip(a, b, strict=True)]
        allowed = flops(plain) / len(some) / (flops(ours) / len(facts))
        values, reference = found["ours"], found["plain"]
        assert isinstance(values, Values)
        assert isinstance(reference, torch.Tensor)
        step = max(1, len(facts) // len(some))
        off = (values.delta_low[::step] - reference).norm(dim=1) / reference.norm(dim=1)
        note = (
            f"operation count allows {allowed:.1f}, {median(ratios) / allowed:.2f} of it reached; "
            f"{float(values.steps.float().mean()):.1f} passes a fact; "
            f"largest relative difference of δ' {float(off.max()):.0e}; "
            f"peak {values.peak_bytes / 2**20:.0f} MiB"
        )
        return Row(
            what, median(a), median(b), "ms/fact", median(ratios), min(ratios), max(ratios), note
        )

    return measure


def flops(procedure: Callable[[], object]) -> float:
    """Operations of all matrix products in a call."""
    with FlopCounterMode(display=False) as counter:
        procedure()
    return float(counter.get_total_flops())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--facts", type=int, default=FACTS)
    args = parser.parse_args()
    print(table(run(args.repeats, args.facts)))


if __name__ == "__main__":
    main()
