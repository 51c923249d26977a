"""Value optimisation against the published procedure: ``python -m bench.library.values``.

Yardsticks (``bench/library/plain.py``): one fact at a time with early stop, and plain batches of 32
that wait for their slowest fact.  Both sides take the steps of the preset that follows the paper,
so the values are the same and the time alone differs.  Operations of both sides are counted by
torch, in matrix products; the ratio that they allow is the ratio of the counts.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace

from torch.utils.flop_counter import FlopCounterMode

from bench.library.plain import optimise_plain
from bench.report import Row, table
from bench.workload import median, timed, workload
from jeep_core import atlas
from jeep_core.models.views import ModelView
from jeep_core.values.optimiser import FactTokens, Objective, optimise

FACTS = 256
ALONE, TOGETHER = 16, 32
"""Facts for the yardsticks, spread evenly over the 256, so that they meet the same lengths."""


def run(repeats: int, facts: int = FACTS) -> list[Row]:
    """Both bundled models."""
    return [row for model in atlas.MODELS for row in compare(model, repeats, facts)]


def compare(model: str, repeats: int, count: int) -> list[Row]:
    """One model against both yardsticks."""
    base, facts, objective = workload(model, count, preset=f"jeep-{model}-paper")
    alone = facts[:: max(1, count // ALONE)][:ALONE]
    together = facts[:: max(1, count // TOGETHER)][:TOGETHER]
    view = ModelView(base)
    optimise(view, facts[:8], objective)
    times: list[tuple[float, float, float]] = []
    c, (_, waited) = timed(lambda: optimise_plain(view, together, objective, TOGETHER))
    for _ in range(repeats):  # the plain batch takes minutes and is run once
        a, ours = timed(lambda: optimise(view, facts, objective))
        b, (reference, passes) = timed(lambda: optimise_plain(view, alone, objective, 1))
        times.append((a / len(facts), b / len(alone), c / len(together)))
    step = max(1, count // ALONE)
    off = (ours.delta_low[::step][:ALONE] - reference).norm(dim=1) / reference.norm(dim=1)
    per_fact = flops(lambda: optimise(view, together, objective)) / len(together)
    one = pass_flops(view, alone, objective, 1) * float(passes.float().mean())
    batch = pass_flops(view, together, objective, TOGETHER) * int(waited.max())
    note = (
        f"{float(ours.steps.float().mean()):.1f} passes a fact; largest relative difference of δ' "
        f"{float(off.max()):.0e}; peak {ours.peak_bytes / 2**20:.0f} MiB"
    )
    return [
        _row(f"{model}, {count} facts, against one at a time", times, 1, one / per_fact, note),
        _row(f"{model}, {count} facts, against a plain batch", times, 2, batch / per_fact, ""),
    ]


def _row(what: str, times: Sequence[Sequence[float]], which: int, allowed: float, note: str) -> Row:
    ratios = [row[which] / row[0] for row in times]
    share = f"operation count allows {allowed:.1f}, {median(ratios) / allowed:.2f} of it reached"
    return Row(
        what,
        1000 * median([row[0] for row in times]),
        1000 * median([row[which] for row in times]),
        "ms/fact",
        median(ratios),
        min(ratios),
        max(ratios),
        "; ".join(filter(None, [share, note])),
    )


def pass_flops(
    view: ModelView, facts: Sequence[FactTokens], objective: Objective, together: int
) -> float:
    """Operations of one pass of the plain procedure, per fact."""

    def operations(n_steps: int) -> float:
        steps = replace(objective, n_steps=n_steps, stop_probability=None)
        return flops(lambda: optimise_plain(view, facts, steps, together))

    return (operations(3) - operations(2)) / len(facts)


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
