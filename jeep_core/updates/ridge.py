"""Ridge regression with one constant on the diagonal: Kᵀ (K Kᵀ + ρ I)⁻¹, by the smaller system."""

from __future__ import annotations

import torch

from jeep_core.errors import NumericalError


def ridge_inverse(keys: torch.Tensor, ridge: float, name: str) -> torch.Tensor:
    """Kᵀ (K Kᵀ + ρ I)⁻¹ = (Kᵀ K + ρ I)⁻¹ Kᵀ, (in, n) in float64, for ``keys`` K (n, in).

    The Gram matrix of the keys or that of their coordinates is factored, whichever is smaller.

    Raises:
        NumericalError: a key is not finite; names the layer.
    """
    rows = keys.double()
    by_key = len(rows) <= rows.shape[1]
    # (n, n), or (in, in)
    gram = rows @ rows.T if by_key else rows.T @ rows
    gram.diagonal().add_(ridge)
    lower, info = torch.linalg.cholesky_ex(gram)
    if int(info) or not bool(torch.isfinite(lower).all()):
        raise NumericalError(f"{name}: K Kᵀ + {ridge:g} I cannot be factored")
    if by_key:
        # (K Kᵀ + ρ I)⁻¹ K (n, in), transposed
        return torch.cholesky_solve(rows, lower).T
    return torch.cholesky_solve(rows.T, lower)
