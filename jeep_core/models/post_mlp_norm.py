"""The output an MLP must have for a state after the norm that follows it.

There a block's output is a + N(z) with z = W k and N(z) = g ⊙ z / √(mean z² + ε), so a residual r
at the block's output is not one of W k.  N gives every z the same length, ‖N(z) / g‖ = √d (but
for ε): most states a + N(z) + r cannot be reached by one block.  Taken is the z' of the length
of z for which N(z') is nearest to N(z) + r; the part of r that is left is measured with the
other residuals, and later layers of the region are given it.
"""

from __future__ import annotations

import torch

BISECTIONS = 80


def back_through_norm(
    outputs: torch.Tensor, residuals: torch.Tensor, gain: torch.Tensor, epsilon: float
) -> torch.Tensor:
    """Residuals (m, d) of the MLP's output for ``residuals`` (m, d) after the norm; float64.

    ``outputs`` (m, d): the MLP's current outputs.  ``gain`` (d,).
    """
    z, g = outputs.double(), gain.double()
    # scale and radius (m, 1): ‖unit‖ hardly depends on z, so it is kept as the wanted length
    scale = torch.rsqrt(z.square().mean(dim=1, keepdim=True) + epsilon)
    unit = z * scale
    radius = unit.norm(dim=1, keepdim=True).clamp_min(torch.finfo(z.dtype).tiny)
    # the unit of z' whose g ⊙ unit is nearest to N(z) + r; divided by z's scale it has z's length
    nearest = _nearest(unit * g + residuals.double(), g, radius)
    return nearest / scale - z


def _nearest(wanted: torch.Tensor, gain: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
    """y (m, d) with ‖y‖ = ``radius`` (m, 1) and g ⊙ y nearest to ``wanted`` (m, d).

    y = g ⊙ wanted / (g² + μ), where ‖y‖ falls with μ ≥ 0: channels of small gain are not blown
    up.  If even μ = 0 gives too short a y, its direction is kept: a longer one would lie in the
    channels that count least.
    """
    tiny = torch.finfo(wanted.dtype).tiny

    def at(mu: torch.Tensor) -> torch.Tensor:
        return gain * wanted / (gain.square() + mu).clamp_min(tiny)

    # bisection over μ (m, 1) by row: ‖y‖ falls with μ and is below the radius at ``high``
    low = torch.zeros_like(radius)
    high = (gain * wanted).norm(dim=1, keepdim=True) / radius
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        long = at(middle).norm(dim=1, keepdim=True) > radius
        low, high = torch.where(long, middle, low), torch.where(long, high, middle)
    y = at(high)
    length: torch.Tensor = y.norm(dim=1, keepdim=True).clamp_min(tiny)
    return y * radius / length
