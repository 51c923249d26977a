"""Matrices that are given the same input, taken as one where they lie beside one another."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from jeep_core.models.fused.rounding import joined


class SameInput:
    """Results of several projections of one input, beside one another.

    A few rows take a large matrix little longer than a small one, and one product has one gradient
    by its input, where several have a sum of them.
    """

    def __init__(self, parts: Sequence[nn.Linear]) -> None:
        self.parts = parts
        self.sizes = [part.out_features for part in parts]
        self.whole = joined([part.weight.data for part in parts])
        biases = [part.bias.data for part in parts if part.bias is not None]
        self.bias = torch.cat(biases) if len(biases) == len(parts) else None
        if biases and self.bias is None:
            self.whole = None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Results (…, sum of the sizes) for x (…, d); hooks before the first projection act."""
        if self.whole is None or any(part._forward_hooks for part in self.parts):
            return torch.cat([part(x) for part in self.parts], dim=-1)
        first, args = self.parts[0], (x,)
        # a caller that is to be given way to waits in one of them, and the input is cast in another
        for hook in list(first._forward_pre_hooks.values()):
            args = hook(first, args) or args
        return F.linear(args[0], self.whole, self.bias)
