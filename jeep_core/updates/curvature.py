"""Directions of a matrix in which a loss hardly bends, by the Kronecker product of two moments.

For a matrix with inputs a and output gradients b, E[a aᵀ] ⊗ E[b bᵀ] approximates the curvature of
the loss.  In the eigenvectors of both, each pair of eigenvalues s_a·s_b is the curvature of one
direction.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from jeep_core.errors import NumericalError
from jeep_core.spec.finite import all_finite


@dataclass(frozen=True)
class FlatDirections:
    """Projects on the directions whose curvature is small.

    ``inputs`` (in, in) and ``outputs`` (out, out) are eigenvectors, one a column; ``kept``
    (out, in) says of each pair whether the direction is kept.
    """

    inputs: torch.Tensor
    outputs: torch.Tensor
    kept: torch.Tensor

    def __call__(self, gradient: torch.Tensor) -> torch.Tensor:
        """U_b ((U_bᵀ G U_a) ∘ M) U_aᵀ of a ``gradient`` G (out, in), float32."""
        inside = (self.outputs.T @ gradient @ self.inputs) * self.kept
        return self.outputs @ inside @ self.inputs.T


def flat_directions(
    inputs: torch.Tensor, gradients: torch.Tensor, energy: float, name: str
) -> FlatDirections:
    """All directions but those of largest curvature that hold the share ``energy`` of its sum.

    ``inputs`` (in, in) is E[a aᵀ], ``gradients`` (out, out) is E[b bᵀ].

    Raises:
        NumericalError: a moment is not finite, or zero; names the layer.
    """
    if not (all_finite(inputs) and all_finite(gradients)):
        raise NumericalError(f"{name}: a second moment is not finite (NaN or infinity)")
    s_a, u_a = torch.linalg.eigh(inputs.double())
    s_b, u_b = torch.linalg.eigh(gradients.double())
    # (out, in); rounding leaves eigenvalues a little below zero
    products = s_b.clamp_min(0)[:, None] * s_a.clamp_min(0)
    total = products.sum()
    if not total > 0:
        raise NumericalError(f"{name}: a second moment is zero; take it over more text")
    largest = products.flatten().sort(descending=True).values
    # the first place at which the largest ones hold the share
    reached = int(torch.searchsorted(largest.cumsum(0), energy * total))
    threshold = largest[min(reached, len(largest) - 1)]
    return FlatDirections(u_a.float(), u_b.float(), (products < threshold).float())
