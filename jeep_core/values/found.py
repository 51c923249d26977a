"""The result of one pass of value optimisation."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch


@dataclass
class Found:
    """The result of one pass, (n,) each: losses, probability, all target tokens the arg-max
    (with a margin: by so much).

    ``high`` (n, d): the states at the high region, δ* not added; ``chat_high`` in the second
    context.
    """

    loss: torch.Tensor
    kl_loss: torch.Tensor
    probability: torch.Tensor
    written: torch.Tensor
    high: torch.Tensor | None
    chat_high: torch.Tensor | None = None

    def detached(self) -> Found:
        """The same without a graph."""
        return self._each(lambda tensor: tensor.detach())

    def keep(self, index: torch.Tensor) -> Found:
        """That of the facts ``index`` (k,)."""
        return self._each(lambda tensor: tensor[index])

    def grown(self, rows: int) -> Found:
        """With ``rows`` more facts, of which nothing is known yet."""
        return self._each(lambda t: torch.cat([t, t.new_zeros(rows, *t.shape[1:])]))

    def where(self, chosen: torch.Tensor, other: Found) -> Found:
        """This result for the facts ``chosen`` (n,), the other one's for the rest."""

        def either(mine: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
            mask = chosen if mine.dim() == 1 else chosen[:, None]
            return torch.where(mask, mine, theirs)

        return self._each(either, other)

    def _each(self, change: Any, *others: Found) -> Found:
        """The result whose every tensor is ``change`` of this one's and those of ``others``."""
        made: dict[str, Any] = {}
        for part in fields(self):
            tensors = [getattr(one, part.name) for one in (self, *others)]
            made[part.name] = None if tensors[0] is None else change(*tensors)
        return Found(**made)
