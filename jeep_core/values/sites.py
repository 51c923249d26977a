"""Vectors that are optimised, one row per fact, and Adam's state for them.

In comments n is the number of facts that are optimised together, d the hidden size.
"""

from __future__ import annotations

import torch

from jeep_core.spec.hparams import Region
from jeep_core.values.objective import Objective

ADAM_BETAS = (0.9, 0.999)
ADAM_EPSILON = 1e-8


class Adam:
    """Adam over one (n, d) float32 tensor to which rows are added and from which they are taken."""

    def __init__(self, size: int, rate: float) -> None:
        self.rate = rate
        # (n, d) each: the vectors, and Adam's running means of gradient and squared gradient
        self.value = self.first = self.second = torch.zeros(0, size)

    def to(self, device: torch.device) -> None:
        """Move to a device."""
        self.value, self.first, self.second = (
            t.to(device) for t in (self.value, self.first, self.second)
        )

    def add(self, rows: int) -> None:
        """Add ``rows`` rows, at zero."""
        new = self.value.new_zeros(rows, self.value.shape[1])
        self.value, self.first, self.second = (
            torch.cat([t, new]) for t in (self.value, self.first, self.second)
        )

    def step(self, gradient: torch.Tensor, count: torch.Tensor, limit: torch.Tensor) -> None:
        """One update by ``gradient`` (n, d), each row's number ``count`` (n,), then the clamp.

        The clamp projects every row onto ‖row‖ ≤ ``limit`` (n,).
        """
        b1, b2 = ADAM_BETAS
        self.first.mul_(b1).add_(gradient, alpha=1 - b1)
        self.second.mul_(b2).addcmul_(gradient, gradient, value=1 - b2)
        # bias corrections (n, 1) by row: rows have joined at different steps
        scale = (self.rate / (1 - b1**count))[:, None]
        corrected = self.second.div((1 - b2**count)[:, None]).sqrt_().add_(ADAM_EPSILON)
        self.value.sub_(self.first / corrected * scale)
        norm = self.value.norm(dim=1)
        factor = (limit / norm.clamp_min(1e-30)).clamp(max=1.0)
        # limit / infinity is 0, which would hide a step that is too large: the next loss shows it
        self.value.mul_(torch.where(norm.isfinite(), factor, torch.nan)[:, None])

    def keep(self, index: torch.Tensor) -> None:
        """Drop all rows but those of ``index`` (k,)."""
        self.value, self.first, self.second = (
            t[index] for t in (self.value, self.first, self.second)
        )


class Site:
    """One added vector per fact: Adam's state, and the unedited state (n, d) it is added to.

    ``chat_reference`` (n, d) is that state in the second context, if there is one.
    """

    def __init__(self, region: Region, trained: bool, size: int, objective: Objective) -> None:
        self.region, self.trained = region, trained
        self.adam = Adam(size, region.learning_rate or objective.learning_rate)
        self.reference = torch.zeros(0, size)
        self.chat_reference = torch.zeros(0, size)

    def to(self, device: torch.device) -> Site:
        """The site on a device, empty."""
        self.adam.to(device)
        self.reference = self.reference.to(device)
        self.chat_reference = self.chat_reference.to(device)
        return self

    def add(self, rows: int) -> None:
        """Add ``rows`` rows, at zero."""
        self.adam.add(rows)
        new = self.reference.new_zeros(rows, self.reference.shape[1])
        self.reference = torch.cat([self.reference, new])
        self.chat_reference = torch.cat([self.chat_reference, new])

    def keep(self, index: torch.Tensor) -> None:
        """Drop all rows but those of ``index`` (k,)."""
        self.adam.keep(index)
        self.reference = self.reference[index]
        self.chat_reference = self.chat_reference[index]

    def decay(self, delta: torch.Tensor) -> torch.Tensor:
        """β‖δ‖/‖h‖² (n,) of ``delta`` (n, d); at δ = 0, the start, torch's gradient of ‖δ‖ is 0."""
        # a fact's reference is its state before any δ, so it has no gradient
        part: torch.Tensor = delta.norm(dim=1) / self.reference.norm(dim=1).square()
        return self.region.weight_decay * part

    def step(self, gradient: torch.Tensor, count: torch.Tensor) -> None:
        """One update by ``gradient`` (n, d), number ``count`` (n,), clamped to γ‖h‖."""
        self.adam.step(gradient, count, self.region.clamp * self.reference.norm(dim=1))
