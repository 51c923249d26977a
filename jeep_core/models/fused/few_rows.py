"""Products of a few rows, as a step of decoding takes them, with float32 matrices on a CPU.

The library that takes them copies a matrix into another order first, at every product, which for
two to four rows takes longer than the product itself.  With the matrix on the left it is read as it
lies.  Sums are in another order, and so have other last bits.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn

ROWS = 2
"""Rows up to which every matrix is taken so."""
ROWS_OF_WIDE = 4
"""The same for matrices with at least as many outputs as inputs."""


class _Thread(threading.local):
    few = False


_thread = _Thread()


@contextmanager
def few_rows() -> Iterator[None]:
    """Where this thread takes products of few rows as this module does, of models `prepared`."""
    before, _thread.few = _thread.few, True
    try:
        yield
    finally:
        _thread.few = before


class FewRowsLinear(nn.Linear):
    """A projection (out, in) whose product with a few rows reads the matrix as it lies."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Results (…, out) for ``input`` (…, in)."""
        if not (_thread.few and self._takes(input)):
            return F.linear(input, self.weight, self.bias)
        # (n, in)
        rows = input.reshape(-1, self.in_features)
        # rows that lie in columns would take the next product five times as long
        result = (self.weight @ rows.contiguous().T).T.contiguous()
        result = result.view(*input.shape[:-1], self.out_features)
        return result if self.bias is None else result + self.bias

    def _takes(self, x: torch.Tensor) -> bool:
        most = ROWS_OF_WIDE if self.out_features >= self.in_features else ROWS
        single = x.dtype == self.weight.dtype == torch.float32
        # a single row is read as the matrix lies in any case
        return single and self.in_features < x.numel() <= most * self.in_features


def prepared(model: nn.Module) -> None:
    """Let the projections of a model with float32 matrices on a CPU be such ones.

    The tensors stay the same; outside of `few_rows` so do all results.
    """
    for module in model.modules():
        single = type(module) is nn.Linear and module.weight.dtype == torch.float32
        if single and module.weight.device.type == "cpu":
            module.__class__ = FewRowsLinear
