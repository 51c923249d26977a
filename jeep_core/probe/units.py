"""Units of a probe: prompts that are run together, with a patch at one block after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from jeep_core.executors.work import Bench, Executor, Work
from jeep_core.models.views import ModelView
from jeep_core.monitor import Monitor
from jeep_core.probe.patched_runs import patched_at_every_block
from jeep_core.spec.positions import PromptTokens

TASK = "jeep_core.probe.units:patched_unit"


@dataclass(frozen=True)
class Unit:
    """r prompts: the rows that are run, the rows whose state is put in, and the tokens (r, k) of
    which probabilities are read.  ``noise`` (r, t, d) is added to the embeddings, if given.
    """

    rows: Sequence[PromptTokens]
    donors: Sequence[PromptTokens]
    tokens: torch.Tensor
    noise: torch.Tensor | None = None


def patched(
    view: ModelView, phase: str, units: Sequence[Unit], executor: Executor, monitor: Monitor
) -> list[torch.Tensor]:
    """Probabilities (r, 1 + L, k) of each unit: without a patch, then with each block patched.

    Raises:
        WorkersLost, NoCluster: the executor's workers are gone.
        Whatever ``monitor.check`` raises; it is called before every unit.
    """
    work = Work(TASK, phase, None, units, [len(unit.rows) for unit in units])
    return executor.run(work, Bench(view, monitor))


@torch.no_grad()
def patched_unit(bench: Bench, common: None, unit: Unit) -> torch.Tensor:
    """The probabilities (r, 1 + L, k) of a unit."""
    monitor = bench.monitor
    monitor.check()
    noise = None if unit.noise is None else unit.noise.to(bench.view.base.device)
    return patched_at_every_block(bench.view, unit.rows, unit.donors, unit.tokens, noise)
