"""Reading many states through the head without holding the logits of all of them."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from jeep_core.models.views import ModelView

LOGITS_TOGETHER = 2**23
LEAST_STATES = 64
"""Logits held at once, in elements; but those of so many states at least, below which a head of
hundreds of thousands of rows is read more than it is used."""


def logits_in_parts(view: ModelView, states: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    """Logits of states (n, d) after the final norm, in float32, a bounded number at a time."""
    step = max(LEAST_STATES, LOGITS_TOGETHER // view.base.vocabulary)
    for start in range(0, len(states), step):
        place = slice(start, start + step)
        yield place, view.base.family.logits_of(view.model, states[place]).float()


def probabilities(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Probabilities (n, k) of ``tokens`` (n, k) by logits (n, V).

    By `log_softmax`: on a CPU its one pass takes a sixth of the time of `logsumexp`.
    """
    return logits.log_softmax(dim=1).gather(1, tokens).exp()
