"""Figures of a probe beside its curves: the spread of states, for learning rates.

The spread of a coordinate is the median distance from the coordinate's mean over prompts, over all
coordinates, in units of a normal distribution.  The root mean square would be the size of a few
coordinates that are always large: in SmolLM2-135M it is twice the spread, in Gemma 3 270M twenty
times.  It is kept for every block, as a later rule may end its regions elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

import torch

from jeep_core.models.fused.rounding import has_fast_bfloat16
from jeep_core.models.token_rows import stack_rows
from jeep_core.models.views import ModelView
from jeep_core.probe.defaults.rule import Scale
from jeep_core.probe.prompts import Prompt
from jeep_core.probe.states import POSITIONS, captured, run

MEASURED_ON = 32
NORMAL = 0.6745
"""Median of the distance from the mean of a normal distribution, in standard deviations."""


@torch.no_grad()
def measure(view: ModelView, prompts: Sequence[Prompt]) -> Scale:
    """The scale of a version of a model, by the first 32 prompts."""
    base = view.base
    rows = stack_rows([prompt.tokens for prompt in prompts[:MEASURED_ON]], base.device)
    with captured(view, rows) as states:
        run(view, rows)
    spread: dict[str, list[float | None]] = {}
    for place, position in enumerate(POSITIONS):
        # (prompts, d) of every block
        outputs = (states.outputs[layer][:, place] for layer in range(base.n_layers))
        found = (spread_of(output.float()) for output in outputs)
        spread[position] = [value if isfinite(value) else None for value in found]
    fast = base.dtype == torch.float32 and all(map(has_fast_bfloat16, base.devices))
    return Scale(base.mlp_size, base.family.is_parallel(view.model), fast, spread)


def spread_of(states: torch.Tensor) -> float:
    """Spread of a coordinate over states (n, d); where most do not move the root mean square."""
    size = float(states.square().mean().sqrt())
    spread = float((states - states.mean(dim=0)).abs().median()) / NORMAL
    # equal states differ from their mean by rounding alone
    return spread if spread > 1e-5 * size else size
