"""Updates written into the null space of the second moment (AlphaEdit, arXiv 2410.02355).

P projects on the eigenvectors of E[k kᵀ] whose eigenvalues are below a threshold: keys of other
text hardly have a component there.  Δ = R Kᵀ P (ridge·I + P K Kᵀ P)⁻¹.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from jeep_core.errors import NumericalError
from jeep_core.spec.finite import SMALLER_STEPS, all_finite
from jeep_core.updates.cholesky import cholesky, condition
from jeep_core.updates.factor import Factor
from jeep_core.updates.kept import KeptKeys, Projected, as_kept
from jeep_core.updates.least_squares import Solution, Solver, rows_of, solved


def in_null_space(threshold: float) -> Solver:
    """The closed form that writes into the null space below ``threshold``; λ is the ridge."""

    def solve(
        keys: torch.Tensor,
        residuals: torch.Tensor,
        factor: Factor,
        moment_weight: float,
        previous_keys: torch.Tensor | KeptKeys | None = None,
    ) -> Solution:
        return solve_in_null_space(keys, residuals, factor, threshold, moment_weight, previous_keys)

    return solve


def solve_in_null_space(
    keys: torch.Tensor,
    residuals: torch.Tensor,
    factor: Factor,
    threshold: float,
    ridge: float,
    previous_keys: torch.Tensor | KeptKeys | None = None,
) -> Solution:
    """The update that maps ``keys`` (m, d_ff) closer by ``residuals`` (m, d), projected.

    ``previous_keys`` (p, d_ff) are kept as they are.  Float64.

    Raises:
        NumericalError: no eigenvalue is below ``threshold``, or a value is not finite; names the
            layer.
    """
    with factor.in_use():
        basis = factor.null_basis(threshold)
    if basis.shape[1] == 0:
        raise NumericalError(
            f"{factor.name}: no eigenvalue of the second moment is below {threshold:g}, "
            "so there is no null space to write into; raise null_space"
        )
    if not (all_finite(keys) and all_finite(residuals)):
        raise NumericalError(
            f"{factor.name}: a key or a residual is not finite (NaN or infinity); {SMALLER_STEPS}"
        )
    kept = as_kept(previous_keys)
    left = residuals.double().T
    with factor.in_use():
        coordinates = Projected(kept, basis)
        known, count = factor.in_null_space(threshold).after(coordinates, ridge)
        if count:  # ridge · I and whole blocks of kept keys as the second moment
            rows = rows_of(keys.double() @ basis, coordinates, count)
            found = solved(rows, left, len(keys), known, ridge)
            return replace(found, right=basis @ found.right)
    rows = rows_of(keys, kept, 0)
    inside = rows @ basis  # (n, k): coordinates in the null space
    system = inside @ inside.T  # (n, n), then + ridge · I
    system.diagonal().add_(ridge)
    lower = cholesky(system, factor.name)
    unit = torch.eye(len(rows), len(keys), dtype=rows.dtype, device=rows.device)
    weights = torch.cholesky_solve(unit, lower)  # (n, m): only the new keys' columns
    right = basis @ (inside.T @ weights)  # (d_ff, m)
    if not bool(torch.isfinite(right).all() and torch.isfinite(left).all()):
        raise NumericalError(
            f"{factor.name}: the update is not finite (NaN or infinity); {SMALLER_STEPS}"
        )
    return Solution(left, right, condition(lower))
