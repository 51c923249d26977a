"""The step size η that makes the batch's own answers probable, found by forward passes.

A matrix moves by η times a direction that is known before, so one pass forward over facts of the
batch says what an η does.  The authors' η is a constant for models of one width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import zip_longest
from math import isfinite
from random import Random
from statistics import fmean
from typing import Any, TypeVar

import torch

from jeep_core.editors.base import EditContext
from jeep_core.editors.record import PAIRED_ROWS, TRIED_ROWS
from jeep_core.editors.ultraedit.hparams import DOUBLINGS, HALVINGS
from jeep_core.models.delta import Update
from jeep_core.models.views import ModelView, hooked
from jeep_core.spec.positions import PromptTokens
from jeep_core.values.gradient_pairs import Entered, batches, enter, read

T = TypeVar("T")
LEAST_GAIN = 1.1
"""A doubled step that does not raise the probability so many times is not worth its harm."""
FAR = 4.0
"""How much smaller the next step is after one with which answers are less probable than before."""
FIRST_DROP = 16.0
"""Nats by which the first step that is tried would lower a row's loss, were it linear in η.

That is more than there is to lower: a loss bends soon (docs/lab-notes.md)."""


@dataclass(frozen=True)
class Direction:
    """Δ/η of a layer: tokens' ‖ĥ‖² (n, 1), ĝ and g (n, out), and the solution (in, n), float64."""

    squares: torch.Tensor
    standardised: torch.Tensor
    gradients: torch.Tensor
    solution: torch.Tensor

    def update(self, step_size: float) -> Update:
        """Δ (out, in) with this η."""
        return Update.of(-step_size * self._shifts.T, self.solution)

    @property
    def slope(self) -> float:
        """Nats by which the summed loss of the rows falls per unit of η, were all moved by v."""
        return float((self._shifts * self.gradients).sum())

    def factors(self, dtype: torch.dtype) -> list[torch.Tensor]:
        """(in, r) and (r, out), or their product (in, out): h times these is an output's move by η.

        The product of the two is taken where that is the smaller matrix.
        """
        first, second = self.solution, -self._shifts
        if first.numel() + second.numel() > len(first) * second.shape[1]:
            return [(first @ second).to(dtype)]
        return [first.to(dtype), second.to(dtype)]

    @property
    def _shifts(self) -> torch.Tensor:
        """‖ĥ‖²ĝ (n, out)."""
        return self.squares * self.standardised


def found_step(
    context: EditContext,
    rows: Sequence[PromptTokens],
    directions: Mapping[int, Direction],
    probability: float,
    *,
    bfloat16: bool = False,
) -> float:
    """About the smallest η with which answers have this mean probability.

    Where a doubled η no longer raises it by a tenth, the one before; 0 where every answer has it
    already, or where no η that was tried raises it.  ``rows`` are those of the batch; of the ones
    that do not have it yet `TRIED_ROWS` are asked at most.  A row's probability is the geometric
    mean over its answer's tokens.  ``bfloat16``: take products in that type.

    Raises:
        Cancelled: checked before every pass.
    """
    total, tried = 1 + DOUBLINGS + HALVINGS, dict[float, float]()
    context.report("step size", 0, total)
    passes = _Passes(context, bfloat16)
    # NaN is not probable
    unknown = [
        (row, one)
        for row, one in zip(rows, passes.probabilities(rows), strict=True)
        if not one >= probability
    ]
    slope = sum(direction.slope for direction in directions.values())
    if not (slope and unknown):
        context.report("step size", total, total)
        return 0.0
    asked = _drawn(unknown)
    before = _mean([one for _, one in asked])
    trial = _Trial(passes, [row for row, _ in asked], directions)

    def reached(size: float) -> float:
        if size not in tried:
            context.report("step size", len(tried), total)
            tried[size] = trial.probability(size)
        return tried[size]

    def may_try() -> bool:
        return len(tried) <= DOUBLINGS

    def wanted(so_far: float) -> float:
        """Of a smaller step, to be taken instead."""
        return probability if so_far >= probability else so_far / LEAST_GAIN

    # rows that have the probability already add next to nothing to the slope
    size = FIRST_DROP * len(unknown) / abs(slope)
    while may_try() and reached(size) <= before:
        # so large that it does harm alone
        size /= FAR
    while may_try() and reached(size) < probability:
        if reached(2 * size) <= LEAST_GAIN * reached(size):
            break
        size *= 2
    while may_try() and reached(size / 2) >= wanted(reached(size)):
        size /= 2
    size = size if size in tried else min(tried)
    if reached(size) >= probability:
        low = size / 2
        for _ in range(HALVINGS):
            middle = (low * size) ** 0.5
            low, size = (low, middle) if reached(middle) >= probability else (middle, size)
    context.report("step size", total, total)
    return size if reached(size) > before else 0.0


def _drawn(items: Sequence[T]) -> list[T]:
    """`TRIED_ROWS` of them at most, in their order; the same ones draw the same."""
    take = min(len(items), TRIED_ROWS)
    return [items[i] for i in sorted(Random(0).sample(range(len(items)), take))]


class _Passes:
    """Passes over rows, some together, in the type that products are to be taken in."""

    def __init__(self, context: EditContext, bfloat16: bool) -> None:
        self._twin = context.twin() if bfloat16 else None
        self.view = context.view if self._twin is None else self._twin.now()
        self.check = context.monitor.check
        self._together = min(context.batch_facts or PAIRED_ROWS, PAIRED_ROWS)
        in_bfloat16 = bfloat16 or context.view.base.dtype == torch.bfloat16
        self.dtype = torch.bfloat16 if in_bfloat16 else torch.float32

    def products(self) -> AbstractContextManager[object]:
        """Where they are run."""
        return nullcontext() if self._twin is None else self._twin.products()

    def chunks(self, rows: Sequence[PromptTokens]) -> list[list[int]]:
        """Indices of the rows that are run together."""
        return list(batches(rows, self._together))

    @torch.no_grad()
    def probabilities(
        self, rows: Sequence[PromptTokens], entered: Sequence[Entered | None] = ()
    ) -> list[float]:
        """Of every row's answer; ``entered``: each of `chunks`, run up to some block before."""
        found = [0.0] * len(rows)
        with self.products():
            for index, start in zip_longest(self.chunks(rows), entered):
                self.check()
                chunk = [rows[i] for i in index]
                each = read(self.view, chunk, start).nll(len(chunk)).neg().exp()
                for i, one in zip(index, each.tolist(), strict=True):
                    found[i] = one
        return found


class _Trial:
    """Rows at the entry of the lowest layer that moves, and what each layer would move by."""

    def __init__(
        self,
        passes: _Passes,
        rows: Sequence[PromptTokens],
        directions: Mapping[int, Direction],
    ) -> None:
        self._passes, self._rows = passes, rows
        self._factors = {layer: one.factors(passes.dtype) for layer, one in directions.items()}
        self._entered = []
        with passes.products():
            for index in passes.chunks(rows):
                passes.check()
                chunk = [rows[i] for i in index]
                self._entered.append(enter(passes.view, chunk, min(directions)))

    def probability(self, size: float) -> float:
        """The mean probability of the rows' answers when every matrix is moved by η = ``size``.

        0 if a step is so large that one is no number.
        """
        with moved(self._passes.view, self._factors, size):
            return _mean(self._passes.probabilities(self._rows, self._entered))


def _mean(probabilities: Sequence[float]) -> float:
    found = fmean(probabilities)
    return found if isfinite(found) else 0.0


def moved(
    view: ModelView, factors: Mapping[int, Sequence[torch.Tensor]], size: float
) -> AbstractContextManager[None]:
    """Move the outputs of the MLP output projections by layer, for as long as it is entered.

    ``factors``: one (in, out), or two (in, r), (r, out); ``size`` times their product is added.
    """

    def adder(layer: int, parts: Sequence[torch.Tensor]) -> Any:
        def hook(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
            # (r, t, in) or (r · t, in)
            shift = args[0].to(parts[0].dtype)
            for part in parts:
                shift = shift @ part
            there: torch.Tensor = output + (size * shift).to(output.dtype).view(output.shape)
            return there

        return view.base.family.mlp_out_of(view.model, layer).register_forward_hook(hook)

    return hooked(*(adder(layer, parts) for layer, parts in factors.items()))
