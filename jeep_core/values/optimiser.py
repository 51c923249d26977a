"""Value optimisation: the hidden states that make the model say the new answers.

Paper eq. 8, 11 and 12.  For every fact a δ' is added to the output of the low region's last
block at the subject's last token, and where there is a high region a δ* to the output of its
last block at the prediction position; both are found together by Adam.

Quantities that no δ can change are computed once: hidden states at the low region's last block,
and keys and values of all later blocks left of the subject's last token.  A step runs the later
blocks from the subject's last token on, and the head only where a target or the KL term is read.
Facts are independent: finished ones leave the pool, waiting ones of like length take their
place.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import torch

from jeep_core.models.fused.twin import Twin
from jeep_core.models.views import ModelView
from jeep_core.monitor import NOTHING, Monitor
from jeep_core.values.batch import Pool
from jeep_core.values.defaults import facts_together
from jeep_core.values.objective import FactTokens, Objective, Values


def optimise(
    view: ModelView,
    facts: Sequence[FactTokens],
    objective: Objective,
    *,
    batch_facts: int | None = None,
    memory_bytes: int | None = None,
    twin: Twin | None = None,
    monitor: Monitor = NOTHING,
) -> Values:
    """Optimise the value vectors of all m facts: (m, d) each, float32 on the model's device.

    At most ``batch_facts`` (default: 32, on CUDA 256) are optimised together, fewer if they
    would hold more than ``memory_bytes`` or do not fit into the device's memory.  Products in
    bfloat16 are taken by ``twin``, the view's, which is kept for the next vectors of an edit.

    Raises:
        Whatever ``monitor.check`` raises; it is called before every step.
        NumericalError: the loss of a fact is not finite.
        torch.OutOfMemoryError: a single fact does not fit.
    """
    limit = batch_facts or facts_together(view.base.device.type)
    # by length: facts that are optimised together are padded alike
    waiting = deque(sorted(range(len(facts)), key=lambda i: facts[i].shape))
    pool = Pool(view, facts, objective, memory_bytes, twin)
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
        except torch.OutOfMemoryError:
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


__all__ = ["FactTokens", "Objective", "Values", "optimise"]
