"""Cholesky factors of second moments and of the sums that contain one."""

from __future__ import annotations

import torch

from jeep_core.errors import NumericalError
from jeep_core.spec.finite import check_tensor

MAX_CONDITION = 1e14


def cholesky(matrix: torch.Tensor, name: str) -> torch.Tensor:
    """The lower Cholesky factor (n, n) of a second moment or of a sum with one, in its dtype.

    Raises:
        NumericalError: singular, not finite, or conditioned above ``MAX_CONDITION``.
    """
    # ``info`` says where it failed; cholesky itself would raise an error without the layer
    lower, info = torch.linalg.cholesky_ex(matrix)
    if int(info) != 0 or not bool(torch.isfinite(lower).all()):
        check_moment(matrix, name)
        raise NumericalError(
            f"{name}: the second moment is singular; take it over more text or another corpus"
        )
    if condition(lower) > MAX_CONDITION:
        raise NumericalError(
            f"{name}: condition above {MAX_CONDITION:.0e}; take the second moment over more text"
        )
    factor: torch.Tensor = lower
    return factor


def check_moment(matrix: torch.Tensor, name: str) -> None:
    """Raise ``NumericalError`` if ``matrix`` (n, n), as in `cholesky`, is not finite."""
    advice = "remove it from the store's folder base/moments, then it is taken again"
    check_tensor(matrix, f"{name}: the second moment of its keys", advice)


def condition(lower: torch.Tensor) -> float:
    """A lower bound of the condition number, from the diagonal of a Cholesky factor (n, n)."""
    diagonal = lower.diagonal()
    # singular values of L lie beyond its diagonal on both sides, and are squared in L Lᵀ
    return float((diagonal.max() / diagonal.min()) ** 2)
