"""The quick probe: the evidence that a proposal rests on, of no more prompts than it needs.

Not read are the subject's last token, the states without the final norm, ranks and word sets, and
nothing is restored.  Prompts are taken in portions until the proposal is settled: until each of
eight random halves of the prompts so far leads to the same one.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from jeep_core.models.views import ModelView
from jeep_core.monitor import NOTHING, Monitor
from jeep_core.probe.defaults.rule import NoProposal
from jeep_core.probe.patching import Patched, answered, donors, exchange
from jeep_core.probe.prompts import Prompt
from jeep_core.probe.proposal import propose
from jeep_core.probe.readings import Readings, read

MOST_PROMPTS = 64
PORTION = 16
FIRST_PORTION = 32
HALVES = 8


def quick_evidence(
    view: ModelView, prompts: Sequence[Prompt], seed: int = 0, monitor: Monitor = NOTHING
) -> tuple[int, Readings, Patched | None]:
    """How many of the prompts were used, from the first on, their readings and exchanges.

    The same for the same model, prompts and seed.  Exchanges are None if no two of the prompts
    have different answers.

    Raises:
        Whatever ``monitor.check`` raises.
        NumericalError: a probability is not finite.
    """
    drawn = donors(view, prompts, seed)
    parallel = view.base.family.is_parallel(view.model)
    readings: Readings | None = None
    exchanged: Patched | None = None
    for start, end in _portions(len(prompts)):
        part = prompts[start:end]
        inside = _counted(monitor, start, len(prompts))
        more = read(view, part, monitor=inside, only_promotion=True)
        readings = more if readings is None else readings.joined(more)
        ids = {id(prompt) for prompt in part}
        pairs = answered(view, [pair for pair in drawn if id(pair[0]) in ids])
        if pairs:
            moved = exchange(view, pairs, inside)
            exchanged = moved if exchanged is None else exchanged.joined(moved)
        if exchanged is not None and settled(readings, exchanged, parallel, seed):
            break
    assert readings is not None
    return end, readings, exchanged


def settled(readings: Readings, exchanged: Patched, parallel: bool, seed: int = 0) -> bool:
    """Whether random halves of the prompts lead to the proposal that all of them lead to."""
    rng = random.Random(seed)
    try:
        whole = propose(readings, exchanged, parallel)
        for _ in range(HALVES):
            half = propose(
                readings.some(_half(rng, len(readings.probability))),
                exchanged.some(_half(rng, len(exchanged.own))),
                parallel,
            )
            if (half.low, half.high) != (whole.low, whole.high):
                return False
    except NoProposal:
        return False
    return True


def _counted(monitor: Monitor, before: int, total: int) -> Monitor:
    """Report a portion's prompts as steps of all prompts."""

    def report(phase: str, done: int, _: int) -> None:
        monitor.report(phase, before + done, total)

    return monitor.reporting(report)


def _half(rng: random.Random, n: int) -> list[int]:
    return sorted(rng.sample(range(n), (n + 1) // 2))


def _portions(n: int) -> Iterator[tuple[int, int]]:
    """First and last place of each portion of n prompts."""
    start, end = 0, min(n, FIRST_PORTION)
    while start < n:
        yield start, end
        start, end = end, min(n, end + PORTION)
