"""Running means and deviations of coordinates, over rows that come batch by batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch

NOISE = 1e-13
"""Deviations up to this part of the mean are rounding: those of two float32 numbers are larger."""


@dataclass(frozen=True)
class RunningMoments:
    """Number of rows so far, their mean (s,), and sums of squared deviations from it (s,), float64.

    Batches are merged exactly: the order of the batches changes nothing but the last bits.
    """

    count: int
    mean: torch.Tensor
    squares: torch.Tensor

    @classmethod
    def empty(cls, size: int, device: torch.device) -> RunningMoments:
        """Those of no row of ``size`` coordinates."""
        zeros = torch.zeros(size, dtype=torch.float64, device=device)
        return cls(0, zeros, zeros.clone())

    def extended(self, rows: torch.Tensor) -> RunningMoments:
        """With ``rows`` (n, s) of one more batch.

        S ← S + Σ(x - x̄)² + N·n/(N + n)·(x̄ - μ)², with N rows before and n new ones.
        """
        rows = rows.double()
        new, total = len(rows), self.count + len(rows)
        if not new:
            return self
        # (s,)
        mean = rows.mean(dim=0)
        gap = mean - self.mean
        squares = self.squares + (rows - mean).square().sum(dim=0)
        squares = squares + gap.square() * (self.count * new / total)
        return RunningMoments(total, self.mean + gap * (new / total), squares)

    def standardised(self, rows: torch.Tensor) -> torch.Tensor:
        """(x - μ)/σ of ``rows`` (n, s), float64, with σ² = S/(N - 1).

        A coordinate in which no two rows differ tells nothing and becomes 0, also where a device
        takes means by a product with 1/n, which leaves such a row an ulp away from its own mean.
        """
        deviation = (self.squares / max(self.count - 1, 1)).sqrt()
        scaled = (rows.double() - self.mean) / deviation
        told = deviation > NOISE * self.mean.abs()
        return torch.where(told, scaled, torch.zeros_like(scaled))
