"""Inputs of several matrices are cast once for all of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class CastOnce:
    """A hook before matrices in bfloat16: what goes into several of them is cast once.

    Autocast casts an input again for every matrix, and every cast has a gradient of its own.
    """

    def __init__(self) -> None:
        self._last: tuple[torch.Tensor, torch.Tensor] | None = None

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """The arguments with the first in bfloat16, None where they stay as they are."""
        given = args[0]
        if not isinstance(given, torch.Tensor) or given.dtype != torch.float32:
            return None
        # by identity: keys, queries and values are given the same tensor
        if self._last is None or self._last[0] is not given:
            self._last = given, given.to(torch.bfloat16)
        return (self._last[1], *args[1:])
