"""The norm by root mean square, y = x / √(mean x² + ε) · g, in float32."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class _RootMeanSquare(torch.autograd.Function):
    """y (…, d) of x (…, d), gain (d,) and ε; the gain has no gradient."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, gain: torch.Tensor, epsilon: float) -> torch.Tensor:
        x = x.float()
        # (…, 1)
        size = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        scale = size.square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, gain, scale)
        y: torch.Tensor = (x * scale).mul_(gain)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        x, gain, scale = ctx.saved_tensors
        [gradient] = gradients
        # with n = x · scale: scale · (h − n · mean(h n)), h the gradient before the gain
        before = gradient * gain
        along = (before * x).mean(dim=-1, keepdim=True).mul_(scale.square()).neg_()
        return before.addcmul_(x, along).mul_(scale), None, None


class RootMeanSquareNorm:
    """A module's ``forward`` with this norm."""

    def __init__(self, gain: torch.Tensor, epsilon: float) -> None:
        self.gain, self.epsilon = gain, epsilon

    def __call__(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """The norm of states (…, d), float32."""
        y: torch.Tensor = _RootMeanSquare.apply(hidden_states, self.gain, self.epsilon)  # type: ignore[no-untyped-call]
        return y


def gains_of(module: nn.Module) -> list[RootMeanSquareNorm]:
    """The norms that a module may be, by its attributes: with its weight as gain, or 1 + weight."""
    weight = getattr(module, "weight", None)
    epsilon = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if not isinstance(weight, torch.Tensor) or weight.dim() != 1 or not isinstance(epsilon, float):
        return []
    return [RootMeanSquareNorm(gain, epsilon) for gain in (weight.detach(), 1 + weight.detach())]
