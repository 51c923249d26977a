"""The step size η that makes the batch's own answers probable, found by forward passes.

A matrix moves by η times a direction that is known before, so one pass forward over the batch says
what an η does.  The authors' η is a constant for models of one width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from jeep_core.editors.base import EditContext
from jeep_core.editors.record import PAIRED_ROWS
from jeep_core.editors.ultraedit.hparams import HALVINGS, WIDENINGS
from jeep_core.models.delta import Update
from jeep_core.spec.positions import PromptTokens
from jeep_core.values.gradient_pairs import batches, read

FIRST_NORM = 1e-3
"""‖Δ‖/‖W‖ of the layer that moves farthest, with the first step that is tried."""
WIDENING = 4.0
"""How much larger the step is made, until the answers are probable enough."""


@dataclass(frozen=True)
class Direction:
    """Δ/η of a layer: tokens' ‖ĥ‖² (n, 1) and ĝ (n, out), and the solution (in, n), float64."""

    squares: torch.Tensor
    gradients: torch.Tensor
    solution: torch.Tensor

    def update(self, step_size: float) -> Update:
        """Δ (out, in) with this η."""
        # (n, out)
        shifts = -step_size * self.squares * self.gradients
        return Update.of(shifts.T, self.solution)

    def norm(self) -> float:
        """‖Δ/η‖."""
        # (n, out); ‖A B‖² = ⟨AᵀA, B Bᵀ⟩ needs no product of the size of the matrix
        shifts = self.squares * self.gradients
        if len(shifts) > len(self.solution):
            return float((self.solution @ shifts).norm())
        return float(((shifts @ shifts.T) * (self.solution.T @ self.solution)).sum().sqrt())


def found_step(
    context: EditContext,
    rows: Sequence[PromptTokens],
    directions: Mapping[int, Direction],
    probability: float,
) -> float:
    """About the smallest η with which answers have this mean probability, else the best one tried.

    ``rows`` are those of the batch; a row's probability is the geometric mean over its answer's
    tokens.

    Raises:
        Cancelled: checked before every pass.
        NumericalError: an update is not finite.
    """
    base = context.view.base
    farthest = max(
        direction.norm() / float(base.model.get_parameter(base.family.weight_name(layer)).norm())
        for layer, direction in directions.items()
    )
    if not farthest > 0:
        return 0.0
    total, tried = WIDENINGS + 1 + HALVINGS, dict[float, float]()

    def reached(size: float) -> bool:
        context.report("step size", len(tried), total)
        tried[size] = _probability(context, rows, directions, size)
        return tried[size] >= probability

    below, size = 0.0, FIRST_NORM / farthest
    for _ in range(WIDENINGS + 1):
        if reached(size):
            break
        below, size = size, WIDENING * size
    else:
        context.report("step size", total, total)
        return max(tried, key=lambda one: tried[one])
    for _ in range(HALVINGS if below else 0):
        middle = (below * size) ** 0.5
        if reached(middle):
            size = middle
        else:
            below = middle
    context.report("step size", total, total)
    return size


@torch.no_grad()
def _probability(
    context: EditContext,
    rows: Sequence[PromptTokens],
    directions: Mapping[int, Direction],
    size: float,
) -> float:
    """The mean probability of the rows' answers when the view is moved by η = ``size``."""
    view = context.view.fork()
    for layer, direction in directions.items():
        view.update(view.base.family.weight_name(layer), direction.update(size))
    total = 0.0
    together = min(context.batch_facts or PAIRED_ROWS, PAIRED_ROWS)
    for index in batches(rows, together):
        chunk = [rows[i] for i in index]
        total += float(read(view, chunk).nll(len(chunk)).neg().exp().sum())
    return total / len(rows)
