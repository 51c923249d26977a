"""Value optimisation: the hidden states that make the model say the new answers.

Paper eq. 8, 11 and 12.  For every fact a δ' is added to the output of the low region's last
block at the subject's last token, and where there is a high region a δ* to the output of its
last block at the prediction position; both are found together by Adam.

Quantities that no δ can change are computed once: hidden states at the low region's last block,
and keys and values of all later blocks left of the subject's last token.  A step runs the later
blocks from the subject's last token on, and the head only where a target or the KL term is read.
Facts are independent: finished ones leave the pool, waiting ones of like length take their
place, and units of them can be optimised by others (`jeep_core.executors`).
"""

from __future__ import annotations

from collections.abc import Sequence

from jeep_core.executors.here import HERE
from jeep_core.executors.work import Bench, Executor
from jeep_core.models.fused.twin import Twin
from jeep_core.models.views import ModelView
from jeep_core.monitor import NOTHING, Monitor
from jeep_core.values.objective import FactTokens, Objective, Values
from jeep_core.values.units import joined, work_of


def optimise(
    view: ModelView,
    facts: Sequence[FactTokens],
    objective: Objective,
    *,
    batch_facts: int | None = None,
    memory_bytes: int | None = None,
    twin: Twin | None = None,
    executor: Executor = HERE,
    monitor: Monitor = NOTHING,
) -> Values:
    """Optimise the value vectors of all m facts: (m, d) each, float32 on the model's device.

    Facts are cut into units by their lengths, and ``executor`` does these.  At most
    ``batch_facts`` (default: 32, on CUDA 256) are optimised together, fewer if they would hold
    more than ``memory_bytes`` (in each worker) or do not fit into the device's memory.  Products
    in bfloat16 are taken by ``twin``, the view's, which is kept for the next vectors of an edit.

    Raises:
        Whatever ``monitor.check`` raises; it is called before every step.
        NumericalError: the loss of a fact is not finite.
        MemoryError or RuntimeError: a single fact does not fit, see ``is_out_of_memory``.
        WorkersLost, NoCluster: the executor's workers are gone.
    """
    base = view.base
    work = work_of(facts, objective, base.device.type, batch_facts, memory_bytes)
    bench = Bench(view, monitor) if twin is None else Bench(view, monitor, twin)
    return joined(work, executor.run(work, bench), base.device)


__all__ = ["FactTokens", "Objective", "Values", "optimise"]
