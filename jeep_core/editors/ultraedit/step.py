"""The step size η that makes the batch's own answers probable, found by forward passes.

A matrix moves by η times a direction that is known before, so one pass forward over facts of the
batch says what an η does.  The authors' η is a constant for models of one width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from math import isfinite
from random import Random
from statistics import fmean
from typing import Any

import torch

from jeep_core.editors.base import EditContext
from jeep_core.editors.record import PAIRED_ROWS, TRIED_ROWS
from jeep_core.editors.ultraedit.hparams import DOUBLINGS, HALVINGS
from jeep_core.models.delta import Update
from jeep_core.models.views import ModelView, hooked
from jeep_core.spec.positions import PromptTokens
from jeep_core.values.gradient_pairs import Entered, batches, enter, read

LEAST_GAIN = 1.1
"""A doubled step that does not raise the probability so many times is not worth its harm."""
FAR = 4.0
"""How much smaller the next step is after one with which answers are less probable than before."""
FIRST_DROP = 16.0
"""Nats by which the first step that is tried would lower a row's loss, were it linear in η.

That is more than there is to lower: a loss bends soon, and steps near this one were found on three
models (docs/lab-notes.md)."""


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
    already, or where no η that was tried raises it.  ``rows`` are those of the batch, of which
    `TRIED_ROWS` are asked at most, and of these the ones that do not have it yet; a row's
    probability is the geometric mean over its answer's tokens.  ``bfloat16``: take products in
    that type.

    Raises:
        Cancelled: checked before every pass.
    """
    total, tried = 1 + DOUBLINGS + HALVINGS, dict[float, float]()
    context.report("step size", 0, total)
    trial = _Trial(context, _drawn(rows), directions, bfloat16)
    before = trial.drop_known(probability)
    slope = sum(direction.slope for direction in directions.values())
    share = len(trial.asked) / trial.n_rows
    if not (slope and share):
        context.report("step size", total, total)
        return 0.0

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
    size = FIRST_DROP * len(rows) * share / abs(slope)
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


def _drawn(rows: Sequence[PromptTokens]) -> list[PromptTokens]:
    """`TRIED_ROWS` of the rows at most, in their order; the same rows draw the same."""
    take = min(len(rows), TRIED_ROWS)
    return [rows[i] for i in sorted(Random(0).sample(range(len(rows)), take))]


class _Trial:
    """Some rows at the entry of the lowest layer that moves, and what each layer would move by."""

    def __init__(
        self,
        context: EditContext,
        rows: Sequence[PromptTokens],
        directions: Mapping[int, Direction],
        bfloat16: bool,
    ) -> None:
        self.twin = context.twin() if bfloat16 else None
        self.view = context.view if self.twin is None else self.twin.now()
        base = context.view.base
        dtype = torch.bfloat16 if bfloat16 or base.dtype == torch.bfloat16 else torch.float32
        self.factors = {layer: one.factors(dtype) for layer, one in directions.items()}
        self.check = context.monitor.check
        together = min(context.batch_facts or PAIRED_ROWS, PAIRED_ROWS)
        self.n_rows = len(rows)
        self.asked: list[tuple[int, int]] = []
        self.entered: list[tuple[list[PromptTokens], Entered]] = []
        with self._products():
            for index in batches(rows, together):
                self.check()
                chunk = [rows[i] for i in index]
                self.entered.append((chunk, enter(self.view, chunk, min(directions))))

    def drop_known(self, probability: float) -> float:
        """Ask from now on only the rows that do not have this probability unedited; their mean."""
        found = self._by_row(0.0)
        self.asked = [at for at, one in found.items() if not one >= probability]
        return _mean([found[at] for at in self.asked])

    def probability(self, size: float) -> float:
        """The mean probability of the rows' answers when every matrix is moved by η = ``size``.

        0 if a step is so large that one is no number.
        """
        found = self._by_row(size)
        return _mean([found[at] for at in self.asked])

    @torch.no_grad()
    def _by_row(self, size: float) -> dict[tuple[int, int], float]:
        """The probability of each row by its chunk and its place there."""
        found: dict[tuple[int, int], float] = {}
        with self._products(), moved(self.view, self.factors, size):
            for number, (chunk, entered) in enumerate(self.entered):
                self.check()
                each = read(self.view, chunk, entered).nll(len(chunk)).neg().exp()
                found |= {(number, place): one for place, one in enumerate(each.tolist())}
        return found

    def _products(self) -> AbstractContextManager[object]:
        return nullcontext() if self.twin is None else self.twin.products()


def _mean(probabilities: Sequence[float]) -> float:
    found = fmean(probabilities) if probabilities else 0.0
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
