"""The log-probabilities that a model gives the tokens of a prompt.

The states of a batch that has just read prompts are at hand; the head is applied to those that
predict a token of a prompt whose scores were asked for, in pieces of bounded size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan

import torch

from jeep_core.decoding.sampling import Ranked
from jeep_core.models.views import ModelView

LOGITS = 1 << 24
"""Logits that are held at once: 64 MiB in float32, 64 positions of the largest vocabularies."""


@dataclass(frozen=True)
class PromptScores:
    """Log-probabilities (nats) of a prompt's tokens ``ids`` from the second one on.

    ``own[i]`` is that of ``ids[i]`` after those before it, ``top[i]`` are the most probable
    tokens at its place.  Both come from the same numbers: a token that is the most probable one
    has exactly the first value of ``top``.
    """

    ids: tuple[int, ...]
    own: tuple[float, ...]
    top: tuple[Ranked, ...]

    @property
    def finite(self) -> bool:
        """Whether no value is NaN; what the model rules out is minus infinity."""
        return not any(isnan(value) for value in self.own)


@dataclass(frozen=True)
class ToScore:
    """A prompt whose scores are wanted: its row among the states and its tokens.

    ``start`` is the column of its first token, ``top`` how many of the most probable tokens.
    """

    row: int
    start: int
    ids: Sequence[int]
    top: int


@torch.no_grad()
def prompt_scores(
    view: ModelView, hidden: torch.Tensor, wanted: Sequence[ToScore]
) -> list[PromptScores]:
    """The scores of prompts from their last hidden states (rows, columns, d)."""
    device, most = hidden.device, max((one.top for one in wanted), default=0)
    places = [(one.row, one.start + i) for one in wanted for i in range(len(one.ids) - 1)]
    targets = [token for one in wanted for token in one.ids[1:]]
    own: list[float] = []
    top: list[Ranked] = []
    together = max(1, LOGITS // view.base.vocabulary)
    for first in range(0, len(places), together):
        rows, columns = torch.tensor(places[first : first + together], device=device).T
        target = torch.tensor(targets[first : first + together], device=device)[:, None]
        logits = view.base.family.logits_of(view.model, hidden[rows, columns]).float()
        whole = logits.logsumexp(dim=1, keepdim=True)
        own += (logits.gather(1, target) - whole)[:, 0].tolist()
        best = logits.topk(min(most, logits.shape[1]))
        pairs = zip(best.indices.tolist(), (best.values - whole).tolist(), strict=True)
        top += [tuple(zip(ids, values, strict=True)) for ids, values in pairs]
    found, at = [], 0
    for one in wanted:
        end = at + len(one.ids) - 1
        ranked = tuple(places[: one.top] for places in top[at:end])
        found.append(PromptScores(tuple(one.ids[1:]), tuple(own[at:end]), ranked))
        at = end
    return found
