"""Updates written into the null space of the second moment (AlphaEdit, arXiv 2410.02355).

P projects on the eigenvectors of E[k kᵀ] whose eigenvalues are below a threshold: keys of other
text hardly have a component there.  Δ = R Kᵀ P (ridge·I + P K Kᵀ P)⁻¹.
"""

from __future__ import annotations

import torch

from jeep_core.errors import NumericalError
from jeep_core.spec.finite import SMALLER_STEPS, all_finite
from jeep_core.updates.cholesky import cholesky, condition
from jeep_core.updates.factor import Factor
from jeep_core.updates.least_squares import Solution, Solver


def in_null_space(threshold: float) -> Solver:
    """The closed form that writes into the null space below ``threshold``; λ is the ridge."""

    def solve(
        keys: torch.Tensor,
        residuals: torch.Tensor,
        factor: Factor,
        moment_weight: float,
        previous_keys: torch.Tensor | None = None,
    ) -> Solution:
        return solve_in_null_space(keys, residuals, factor, threshold, moment_weight, previous_keys)

    return solve


def solve_in_null_space(
    keys: torch.Tensor,
    residuals: torch.Tensor,
    factor: Factor,
    threshold: float,
    ridge: float,
    previous_keys: torch.Tensor | None = None,
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
    rows = keys.double()
    if previous_keys is not None and len(previous_keys):
        rows = torch.cat([rows, previous_keys.double().to(rows.device)])
    inside = rows @ basis  # (n, k): coordinates in the null space
    system = inside @ inside.T  # (n, n), then + ridge · I
    system.diagonal().add_(ridge)
    lower = cholesky(system, factor.name)
    unit = torch.eye(len(rows), len(keys), dtype=rows.dtype, device=rows.device)
    weights = torch.cholesky_solve(unit, lower)  # (n, m): only the new keys' columns
    right = basis @ (inside.T @ weights)  # (d_ff, m)
    left = residuals.double().T
    if not bool(torch.isfinite(right).all() and torch.isfinite(left).all()):
        raise NumericalError(
            f"{factor.name}: the update is not finite (NaN or infinity); {SMALLER_STEPS}"
        )
    return Solution(left, right, condition(lower))
