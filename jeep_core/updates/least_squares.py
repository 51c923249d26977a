"""The closed-form update of one matrix (paper eq. 9 and 10).

Δ = R Kᵀ (C + K Kᵀ)⁻¹ with C = λ·E[k kᵀ] (+ K_p K_pᵀ of earlier edits).

Two forms give the same result.  The small one solves with the kept factor of E[k kᵀ], which is
valid for every λ, and an n×n system, n keys in all (Woodbury 1950); the dense one factors the
d_ff×d_ff sum.  The form with fewer operations is taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from jeep_core.errors import NumericalError
from jeep_core.spec.finite import SMALLER_STEPS
from jeep_core.updates.cholesky import cholesky, condition
from jeep_core.updates.factor import Factor
from jeep_core.updates.kept import KeptKeys, as_kept
from jeep_core.updates.operations import dense_form_operations, small_form_operations

MAX_CORRECTIONS = 6
ACCURATE = 1e-7
"""Largest last correction against the solution at which float32 factors were enough …"""
RESIDUAL = 1e-9
"""… and largest ‖residual‖/‖key‖.  A small residual alone leaves errors of 1e-4."""


@dataclass(frozen=True)
class Solution:
    """Δ = left · rightᵀ with left (d, m) and right (d_ff, m); ``condition`` is an estimate.

    ``precision`` is the type the system was factored in; ``left`` and ``right`` are float64.
    """

    left: torch.Tensor
    right: torch.Tensor
    condition: float
    precision: torch.dtype = torch.float64


class Solver(Protocol):
    """A closed form: how a layer is written.  An editor passes its own to ``write_region``."""

    def __call__(
        self,
        keys: torch.Tensor,
        residuals: torch.Tensor,
        factor: Factor,
        moment_weight: float,
        previous_keys: torch.Tensor | KeptKeys | None = None,
    ) -> Solution:
        """The update for ``keys`` (m, d_ff) and ``residuals`` (m, d).

        ``moment_weight`` is λ of the region, ``previous_keys`` (p, d_ff) those of earlier edits,
        to be kept as they are.
        """
        ...


def solve_update(
    keys: torch.Tensor,
    residuals: torch.Tensor,
    factor: Factor,
    moment_weight: float,
    previous_keys: torch.Tensor | KeptKeys | None = None,
) -> Solution:
    """The update that maps ``keys`` (m, d_ff) closer by ``residuals`` (m, d).

    ``previous_keys`` (p, d_ff), oldest first, are kept as they are: further columns of K, whole
    blocks of them as a part of C.

    A solution with float32 factors is corrected with float64 residuals until correction and
    residual are small; if they do not become small, the system is solved in float64.

    Raises:
        NumericalError: a singular or badly conditioned system; names the layer.
    """
    kept = as_kept(previous_keys)
    # (d, m)
    left = residuals.double().T
    with factor.in_use():
        known, count = factor.after(kept, moment_weight)
        rows = rows_of(keys, kept, count)
        _check_finite(rows, left, factor)
        return solved(rows, left, len(keys), known, moment_weight)


def rows_of(keys: torch.Tensor, kept: KeptKeys, count: int) -> torch.Tensor:
    """All keys but the first ``count`` kept ones (n, d_ff), float64; new ``keys`` come first."""
    rows = keys.double()
    if len(kept) > count:
        rows = torch.cat([rows, kept.rows(count, len(kept)).double().to(rows.device)])
    return rows


def _check_finite(rows: torch.Tensor, left: torch.Tensor, factor: Factor) -> None:
    if not bool(torch.isfinite(rows).all() and torch.isfinite(left).all()):
        raise NumericalError(
            f"{factor.name}: a key or a residual is not finite (NaN or infinity); {SMALLER_STEPS}"
        )


def solved(
    rows: torch.Tensor, left: torch.Tensor, m: int, factor: Factor, moment_weight: float
) -> Solution:
    """The update for all keys ``rows`` (n, d_ff), of which the first ``m`` are new.

    Raises:
        NumericalError: as `solve_update`.
    """
    n, d_ff = rows.shape
    small = small_form_operations(d_ff, m, n, factor.unsolved(rows))
    form = _Small if small < dense_form_operations(d_ff, m, n) else _Dense
    if factor.precision is not torch.float64:
        found = _corrected(form, rows, m, factor, moment_weight)
        if found is not None:
            return Solution(left, *found, factor.precision)
        factor.distrust()
    system = form(rows, factor, moment_weight, torch.float64)
    # (d_ff, m)
    right = system.first(m)
    if not bool(torch.isfinite(right).all()):
        raise NumericalError(
            f"{factor.name}: the update is not finite (NaN or infinity); {SMALLER_STEPS}"
        )
    return Solution(left, right, system.condition)


class _System(Protocol):
    """C + K Kᵀ, factored."""

    condition: float

    def first(self, m: int) -> torch.Tensor:
        """(C + K Kᵀ)⁻¹ times the first ``m`` columns of K: (d_ff, m)."""
        ...

    def solve(self, right: torch.Tensor) -> torch.Tensor:
        """(C + K Kᵀ)⁻¹ · ``right`` (d_ff, m)."""
        ...


class _Small:
    """With C = λ L Lᵀ and H = L⁻¹ K: (C + K Kᵀ)⁻¹ K = L⁻ᵀ H (λ I + Hᵀ H)⁻¹."""

    def __init__(
        self, rows: torch.Tensor, factor: Factor, weight: float, dtype: torch.dtype
    ) -> None:
        self._weight = weight
        self._lower = factor.lower_in(dtype)
        self._half = factor.half_solved(rows, dtype)  # H (d_ff, n)
        small = self._half.T @ self._half  # HᵀH, then I + HᵀH / λ: (n, n)
        small /= weight
        small.diagonal().add_(1)
        self._small = cholesky(small, factor.name)
        self.condition = max(condition(self._lower), condition(self._small))

    def first(self, m: int) -> torch.Tensor:
        n = self._half.shape[1]
        # the first m columns of (I + HᵀH / λ)⁻¹ are enough
        unit = torch.eye(n, m, dtype=self._half.dtype, device=self._half.device)
        return _up(self._lower, self._half @ _both(self._small, unit)) / self._weight

    def solve(self, right: torch.Tensor) -> torch.Tensor:
        # Woodbury: with y = L⁻¹ b, (1/λ) L⁻ᵀ (y - H (λ I + HᵀH)⁻¹ Hᵀ y)
        inner = torch.linalg.solve_triangular(self._lower, right, upper=False)
        weights = _both(self._small, self._half.T @ inner) / self._weight
        return _up(self._lower, inner - self._half @ weights) / self._weight


class _Dense:
    """C + K Kᵀ itself."""

    def __init__(
        self, rows: torch.Tensor, factor: Factor, weight: float, dtype: torch.dtype
    ) -> None:
        # K (d_ff, n)
        self._columns = rows.to(dtype).T
        full = self._columns @ self._columns.T  # K Kᵀ (d_ff, d_ff), then + λ E[k kᵀ]
        full.add_(factor.stored, alpha=weight)
        self._lower = cholesky(full, factor.name)
        self.condition = condition(self._lower)

    def first(self, m: int) -> torch.Tensor:
        return self.solve(self._columns[:, :m])

    def solve(self, right: torch.Tensor) -> torch.Tensor:
        return _both(self._lower, right)


def _corrected(
    form: type[_Small] | type[_Dense],
    rows: torch.Tensor,
    m: int,
    factor: Factor,
    weight: float,
) -> tuple[torch.Tensor, float] | None:
    """The first ``m`` columns of (C + K Kᵀ)⁻¹ K (d_ff, m), float64, and the condition.

    Iterative refinement: factors in float32, residuals and sums in float64.  None where float32
    is not enough.
    """
    try:
        system: _System = form(rows, factor, weight, factor.precision)
    except NumericalError:
        return None
    # (d_ff, m)
    wanted = rows[:m].T
    found = system.first(m).double()
    size = torch.inf
    for _ in range(MAX_CORRECTIONS + 1):
        # residuals (d_ff, m) of (C + K Kᵀ) X = K, without forming the d_ff×d_ff sum
        gap = wanted - weight * factor.times(found) - rows.T @ (rows @ found)
        if size <= ACCURATE:
            return (found, system.condition) if _largest(gap, wanted) <= RESIDUAL else None
        step = system.solve(gap.to(factor.precision)).double()
        found += step
        before, size = size, _largest(step, found)
        # each correction must be less than half the one before; NaN ends here, too
        if not size < before / 2:
            return None
    return None


def _largest(part: torch.Tensor, whole: torch.Tensor) -> float:
    """The largest ratio of the norms of corresponding columns, both (d_ff, m)."""
    return float((part.norm(dim=0) / whole.norm(dim=0).clamp_min(1e-300)).max())


def _up(lower: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """L⁻ᵀ · ``right``."""
    solved: torch.Tensor = torch.linalg.solve_triangular(lower.T, right, upper=True)
    return solved


def _both(lower: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """(L Lᵀ)⁻¹ · ``right``; ``cholesky_solve`` would copy L first."""
    return _up(lower, torch.linalg.solve_triangular(lower, right, upper=False))
