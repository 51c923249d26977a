"""Products of a few rows, as a step of decoding takes them, with float32 matrices on a CPU.

The library that takes them copies a matrix into another order first, at every product, which for
two to four rows takes longer than the product itself.  With the matrix on the left it is read as it
lies.  A single row gains nothing by more threads, and a short one is read slowly: given twice it
is taken as two are.  Sums are in another order, and so have other last bits.
"""

from __future__ import annotations

import os
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
SHORT_ROW = 1024
"""Inputs up to which a single row is given twice."""
SHORT_ROW_SPLIT = 2047
"""The same where there are several threads."""
ROWS_ALONE = 8
"""Rows up to which blocks of small matrices are run by one thread."""
SMALL_MATRIX = 2**21
"""Numbers of a matrix that is small in this sense."""


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
        count = len(rows)
        both = rows.expand(2, -1) if count == 1 else rows
        result = (self.weight @ both.contiguous().T)[:, :count]  # (out, n)
        # rows that lie in columns would take the next product five times as long
        result = result.T.contiguous()
        result = result.view(*input.shape[:-1], self.out_features)
        return result if self.bias is None else result + self.bias

    def _takes(self, x: torch.Tensor) -> bool:
        if not x.dtype == self.weight.dtype == torch.float32:
            return False
        if x.numel() == self.in_features:
            several = torch.get_num_threads() > 1
            return self.in_features <= (SHORT_ROW_SPLIT if several else SHORT_ROW)
        most = ROWS_OF_WIDE if self.out_features >= self.in_features else ROWS
        return self.in_features < x.numel() <= most * self.in_features


def prepared(model: nn.Module) -> None:
    """Let the projections of a model with float32 matrices on a CPU be such ones.

    The tensors stay the same; outside of `few_rows` so do all results.
    """
    for module in model.modules():
        single = type(module) is nn.Linear and module.weight.dtype == torch.float32
        if single and module.weight.device.type == "cpu":
            module.__class__ = FewRowsLinear


def run_alone(block: nn.Module) -> bool:
    """Whether a few rows pass a block like this more quickly by one thread than by several.

    On a CPU, in float32, where threads wait passively for one another (``OMP_WAIT_POLICY``, as a
    worker's do) and matrices are so small that several take longer for a product than one.
    """
    if os.environ.get("OMP_WAIT_POLICY", "").upper() != "PASSIVE":
        return False
    matrices = [one for one in block.parameters() if one.dim() > 1]
    return all(
        one.device.type == "cpu" and one.dtype == torch.float32 and one.numel() <= SMALL_MATRIX
        for one in matrices
    )
