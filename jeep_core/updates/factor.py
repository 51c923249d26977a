"""The second moment of a matrix's keys, E[k kᵀ] (d_ff, d_ff), as the closed forms use it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

import torch

from jeep_core.updates.kept import KeptKeys


class Factor(Protocol):
    """A second moment with its Cholesky factor L and what has been solved with it."""

    @property
    def name(self) -> str:
        """The matrix, for messages."""
        ...

    @property
    def precision(self) -> torch.dtype:
        """The type to solve in: float64, or float32 with corrections."""
        ...

    @property
    def stored(self) -> torch.Tensor:
        """E[k kᵀ] (d_ff, d_ff) in the type it is stored in."""
        ...

    def in_use(self) -> AbstractContextManager[None]:
        """Keep the factor in memory meanwhile; everything below is called in here."""
        ...

    def distrust(self) -> None:
        """Solve in float64 from now on: float32 was not enough."""
        ...

    def unsolved(self, rows: torch.Tensor) -> int:
        """How many of the keys ``rows`` (n, d_ff) have not been solved with L before."""
        ...

    def lower_in(self, dtype: torch.dtype) -> torch.Tensor:
        """L (d_ff, d_ff), lower, in ``dtype``."""
        ...

    def half_solved(self, rows: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """L⁻¹ K (d_ff, n) in ``dtype`` for the keys ``rows`` (n, d_ff)."""
        ...

    def times(self, right: torch.Tensor) -> torch.Tensor:
        """E[k kᵀ] · ``right`` (d_ff, m), float64."""
        ...

    def after(self, keys: KeptKeys, weight: float) -> tuple[Factor, int]:
        """The factor of E[k kᵀ] + Σ k kᵀ / λ over whole blocks of kept ``keys``, and their number.

        ``weight`` is λ.  This factor, and 0, where they are fewer than a block.
        """
        ...

    def in_null_space(self, threshold: float) -> Factor:
        """The factor of the unit matrix (k, k) in the coordinates of `null_basis`."""
        ...

    def null_basis(self, threshold: float) -> torch.Tensor:
        """Eigenvectors (d_ff, k) of E[k kᵀ] with eigenvalues below ``threshold``, float64."""
        ...
