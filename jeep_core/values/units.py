"""A unit of value optimisation: facts of like length that are optimised together.

Which facts are together is said by the facts alone (their lengths and their order), so the values
are the same, bit by bit, whoever optimises them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch

from jeep_core.errors import is_out_of_memory
from jeep_core.executors.work import Bench, Work, evenly
from jeep_core.values.batch import Pool
from jeep_core.values.defaults import unit_facts
from jeep_core.values.objective import FactTokens, Objective, Values

TASK = "jeep_core.values.units:optimise_unit"


@dataclass(frozen=True)
class Common:
    """The settings that all units of an optimisation share.

    ``limit``: facts together at most; ``memory_bytes``: bound on what they hold; ``total``: facts
    of all units.
    """

    objective: Objective
    limit: int
    memory_bytes: int | None
    total: int


@dataclass(frozen=True)
class Unit:
    """Facts in order of length, and their places among all."""

    numbers: Sequence[int]
    facts: Sequence[FactTokens]


def work_of(
    facts: Sequence[FactTokens],
    objective: Objective,
    device: str,
    batch_facts: int | None,
    memory_bytes: int | None,
) -> Work:
    """All facts, cut into units; ``batch_facts`` as for ``optimise``.

    A unit has one fact where the objective is ``exact``: what is computed together decides about
    last bits.
    """
    limit = batch_facts or unit_facts(device)
    most = 1 if objective.exact else max(limit, unit_facts(device))
    # by length: facts that are optimised together are padded alike
    order = sorted(range(len(facts)), key=lambda i: facts[i].shape)
    cut = [[order[i] for i in part] for part in evenly(len(order), most)]
    return Work(
        task=TASK,
        phase="optimise",
        common=Common(objective, limit, memory_bytes, len(facts)),
        units=[Unit(numbers, [facts[i] for i in numbers]) for numbers in cut],
        sizes=[len(numbers) for numbers in cut],
    )


def optimise_unit(bench: Bench, common: Common, unit: Unit) -> Values:
    """The values of a unit's m facts, (m, d) each, in their order.

    Raises:
        Whatever ``monitor.check`` raises; it is called before every step.
        NumericalError: the loss of a fact is not finite.
        MemoryError or RuntimeError: a single fact does not fit, see ``is_out_of_memory``.
    """
    facts, limit, monitor = unit.facts, common.limit, bench.monitor
    waiting = deque(range(len(facts)))
    pool = Pool(
        bench.view,
        facts,
        common.objective,
        common.memory_bytes,
        bench.twin,
        names=[f" of fact {number + 1} of {common.total}" for number in unit.numbers]
        if common.total > 1
        else [""],
    )
    # said at once: the first fact takes the longest to finish, and until then it would seem to be
    # the phase before
    monitor.report("optimise", 0, len(facts))
    while waiting or len(pool):
        monitor.check()
        # 0 while the pool is full: then it only takes a step
        free = pool.room(limit, waiting)
        chosen = [waiting.popleft() for _ in range(free)]
        try:
            if chosen:
                pool.admit(chosen)
                chosen = []  # the pool counts them from now on
            finished = pool.step()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            # halve the number held; facts that leave begin again from δ = 0
            together = len(pool) + len(chosen)
            if together == 1:
                raise
            limit = together // 2
            waiting.extendleft(reversed([*pool.evict(limit), *chosen]))
            continue
        if finished:
            monitor.report("optimise", len(facts) - len(waiting) - len(pool), len(facts))
    return pool.values


def joined(work: Work, found: Sequence[Values], device: torch.device) -> Values:
    """The values (m, d) of all m facts from those of the units, on the model's device."""
    order = torch.tensor([number for unit in work.units for number in unit.numbers], device=device)
    parts: dict[str, Any] = {}
    for part in fields(Values):
        tensors = [getattr(values, part.name) for values in found]
        if isinstance(tensors[0], torch.Tensor):
            together = torch.cat([tensor.to(device) for tensor in tensors])
            parts[part.name] = torch.empty_like(together).index_copy_(0, order, together)
        elif tensors[0] is None:
            parts[part.name] = None
    trace = []
    for unit, values in zip(work.units, found, strict=True):
        numbers = torch.tensor(unit.numbers, device=device)
        trace += [(numbers[index.to(device)], loss.to(device)) for index, loss in values.trace]
    return Values(**{**parts, "peak_bytes": max(v.peak_bytes for v in found), "trace": trace})
