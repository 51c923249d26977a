"""The closed-form update of one matrix (paper eq. 9 and 10), in float64.

Δ = R Kᵀ (C + K Kᵀ)⁻¹ with C = λ·E[k kᵀ] (+ K_p K_pᵀ of earlier edits).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from jeep_core.errors import NumericalError

MAX_CONDITION = 1e14


@dataclass(frozen=True)
class Solution:
    """Δ = left · rightᵀ with left (d, m) and right (d_ff, m); ``condition`` is an estimate."""

    left: torch.Tensor
    right: torch.Tensor
    condition: float


class MomentFactor:
    """The Cholesky factor of one layer's second moment, made once and kept.

    ``moment`` (d_ff, d_ff) is E[k kᵀ] over tokens.
    """

    def __init__(self, moment: torch.Tensor, name: str) -> None:
        self.moment, self.name = moment.double(), name
        self._lower: torch.Tensor | None = None

    @property
    def lower(self) -> torch.Tensor:
        """L with L Lᵀ = E[k kᵀ].

        Raises:
            NumericalError: the moment is singular or not finite.
        """
        if self._lower is None:
            self._lower = _cholesky(self.moment, self.name)
        return self._lower


def solve_update(
    keys: torch.Tensor,
    residuals: torch.Tensor,
    factor: MomentFactor,
    moment_weight: float,
    previous_keys: torch.Tensor | None = None,
) -> Solution:
    """The update that maps ``keys`` (m, d_ff) closer by ``residuals`` (m, d).

    ``previous_keys`` (p, d_ff) are kept as they are.  The (m+p)×(m+p) form is taken where it
    costs less than factoring the d_ff×d_ff sum.

    Raises:
        NumericalError: a singular or badly conditioned system; names the layer.
    """
    columns = keys.double().T
    if previous_keys is not None and len(previous_keys):
        columns = torch.cat([columns, previous_keys.double().to(columns.device).T], dim=1)
    d_ff, n = columns.shape
    m = len(keys)
    if n < d_ff // 2:
        lower = factor.lower
        half = torch.linalg.solve_triangular(lower, columns, upper=False) / moment_weight**0.5
        small = torch.eye(n, dtype=columns.dtype, device=columns.device) + half.T @ half
        small_lower = _cholesky(small, factor.name)
        condition = max(_condition(lower), _condition(small_lower))
        weighted = torch.cholesky_solve(_unit_columns(n, m, columns), small_lower)
        back = torch.linalg.solve_triangular(lower.T, half @ weighted, upper=True)
        right = back / moment_weight**0.5
    else:
        full = moment_weight * factor.moment + columns @ columns.T
        full_lower = _cholesky(full, factor.name)
        condition = _condition(full_lower)
        right = torch.cholesky_solve(columns[:, :m], full_lower)
    left = residuals.double().T
    if not bool(torch.isfinite(right).all() and torch.isfinite(left).all()):
        raise NumericalError(f"{factor.name}: the update is not finite")
    return Solution(left, right, condition)


def _unit_columns(n: int, m: int, like: torch.Tensor) -> torch.Tensor:
    return torch.eye(n, m, dtype=like.dtype, device=like.device)


def _cholesky(matrix: torch.Tensor, name: str) -> torch.Tensor:
    lower, info = torch.linalg.cholesky_ex(matrix)
    if int(info) != 0 or not bool(torch.isfinite(lower).all()):
        raise NumericalError(
            f"{name}: the second moment is singular; take it over more text or another corpus"
        )
    if _condition(lower) > MAX_CONDITION:
        raise NumericalError(
            f"{name}: condition above {MAX_CONDITION:.0e}; take the second moment over more text"
        )
    factor: torch.Tensor = lower
    return factor


def _condition(lower: torch.Tensor) -> float:
    """A lower bound of the condition number, from the diagonal of a Cholesky factor."""
    diagonal = lower.diagonal()
    return float((diagonal.max() / diagonal.min()) ** 2)
