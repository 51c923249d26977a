"""An estimate for a model that was not measured: operations that are counted, rates assumed."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from bench.library.simulated.events import Job, Network, Unit
from jeep_core.moments.source import PANELS
from jeep_core.sizing.architecture import Architecture
from jeep_core.sizing.demand import Settings, Workload, editing_of
from jeep_core.sizing.devices import GPUS
from jeep_core.sizing.plan import Plan, make
from jeep_core.sizing.source import known_model
from jeep_core.values.defaults import facts_together

MODEL, GPU, DTYPE = "llama-7b", "h100", "float16"
FACTS = 10_000
BLOCK_TOKENS = 4096
"""Of a unit of second moments, as in ``jeep_core/moments/sums.py``."""
READ_PER_S = 4e9
"""Bytes of results that one thread unpacks and adds in a second, assumed."""
FAST = Network(bandwidth=12.5e9, latency_s=0.0002, handling_s=0.005)
"""100 Gbit/s."""


@dataclass(frozen=True)
class Assumed:
    """The share of the GPU's peak that products reach, and passes of value optimisation."""

    share: float
    passes: int


BEST, WORST = Assumed(0.5, 15), Assumed(0.25, 30)


def edit(assumed: Assumed, facts: int = FACTS, fact_bytes: float = 4000.0) -> Job:
    """An edit of so many facts on a version with one edit before it; ``fact_bytes`` of each."""
    plan, arch, layers = _plan(assumed, facts)
    count = ceil(facts / facts_together("cuda"))
    together = facts / count
    # two vectors (d,) of each fact, in float32
    unit = Unit(
        _seconds(plan, "value optimisation") / count, together * fact_bytes, together * 8 * arch.d
    )
    serial = _seconds(plan, "writing") + _seconds(plan, "measuring")
    # sent whole, in float32, where many facts were edited
    return Job([unit] * count, serial, 4.0 * layers * arch.d * arch.d_ff)


def moments(assumed: Assumed) -> tuple[Job, Network]:
    """The pass over a text that the first edit of a model needs, by blocks; its network."""
    plan, arch, layers = _plan(assumed, 1)
    count = ceil(Workload().text_tokens(arch.d_ff) / BLOCK_TOKENS)
    # panels on and above the diagonal, in float32
    size = layers * 4.0 * arch.d_ff**2 * (1 + 1 / PANELS) / 2
    unit = Unit(_seconds(plan, "second moments") / count, BLOCK_TOKENS * 8.0, size)
    network = Network(FAST.bandwidth, FAST.latency_s, size / READ_PER_S)
    return Job([unit] * count, streamed=True), network


def _plan(assumed: Assumed, facts: int) -> tuple[Plan, Architecture, int]:
    """A plan, its model, and how many matrices an edit writes."""
    known, device = known_model(MODEL), GPUS[GPU]
    editing = editing_of(known.architecture, MODEL, "jeep")
    rates = device.rates(DTYPE, assumed.share)
    load, settings = Workload(facts=facts), Settings(dtype=DTYPE)
    plan = make(known, device, editing, load, settings, passes=assumed.passes, rates=rates)
    return plan, known.architecture, len(editing.matrices)


def _seconds(plan: Plan, part: str) -> float:
    return plan.seconds(part) or 0.0
