"""The change of one matrix as two factors of the smallest rank that holds it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt

import torch

from jeep_core.models.delta import Update

EXACT = 2.0**-23
"""Of the change's norm: what float32 cannot keep, so that less counts as nothing missing."""
_ROWS = 256
"""Rows of a change that are computed together when it is compared with its factors."""


@dataclass(frozen=True)
class Spectrum:
    """The singular value decomposition of a change Δ (out, in), float64, without its zeros.

    ``u`` (out, k), ``s`` (k,) descending, ``vt`` (k, in): Δ = u · diag(s) · vt.
    """

    u: torch.Tensor
    s: torch.Tensor
    vt: torch.Tensor

    @property
    def norm(self) -> float:
        """The Frobenius norm of Δ."""
        return float(self.s.norm())

    def error_at(self, rank: int) -> float:
        """What the best factors of a rank miss, as a part of the norm."""
        return float(self.s[rank:].norm()) / self.norm if self.norm else 0.0

    def rank_within(self, error: float) -> int:
        """The smallest rank whose best factors miss at most ``error`` of the norm."""
        # tails[r]: norm of the values beyond the first r, summed from the smallest up
        tails = self.s.flip(0).square().cumsum(0).sqrt().flip(0)
        return int((tails > error * self.norm).sum())

    def factors(self, rank: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """``b`` (out, rank) and ``a`` (rank, in) with Δ ≈ b · a, both of about the same size."""
        root = self.s[:rank].sqrt()
        b, a = self.u[:, :rank] * root, root[:, None] * self.vt[:rank]
        return b.to(dtype).contiguous(), a.to(dtype).contiguous()


def spectrum(updates: Sequence[Update]) -> Spectrum:
    """The decomposition of the sum of one matrix's ``updates``, at least one.

    Where all of them have factors, as those of most editors, no (out, in) matrix is made.
    """
    factored = [u for u in updates if u.left is not None and u.right is not None]
    if len(factored) < len(updates):
        total = updates[0].matrix()
        for update in updates[1:]:
            total = total + update.matrix()
        u, s, vt = torch.linalg.svd(total, full_matrices=False)
        return Spectrum(u, s, vt)
    # (out, Σm) and (in, Σm)
    left, right = _side(updates, 0), _side(updates, 1)
    (q_left, r_left), (q_right, r_right) = torch.linalg.qr(left), torch.linalg.qr(right)
    u, s, vt = torch.linalg.svd(r_left @ r_right.T, full_matrices=False)
    return Spectrum(q_left @ u, s, vt @ q_right.T)


def missing(updates: Sequence[Update], b: torch.Tensor, a: torch.Tensor) -> float:
    """‖Σ Δ - b · a‖, the Frobenius norm, for ``b`` (out, r) and ``a`` (r, in) of any dtype.

    Measured on the factors as they are written, so their rounding is in it.
    """
    squares = 0.0
    b, a = b.double(), a.double()
    cuts = [*range(0, len(b), _ROWS), len(b)]
    for first, last in pairwise(cuts):
        rows = -(b[first:last] @ a)
        for update in updates:
            if update.dense is not None:
                rows += update.dense[first:last].double()
            elif update.left is not None and update.right is not None:
                rows += update.left[first:last].double() @ update.right.double().T
        squares += float(rows.square().sum())
    return sqrt(squares)


def _side(updates: Sequence[Update], side: int) -> torch.Tensor:
    """The left factors (out, Σm) of all updates, or the right ones (in, Σm), in float64."""
    pairs = [(u.left, u.right) for u in updates]
    return torch.cat([t.double() for pair in pairs if (t := pair[side]) is not None], dim=1)
