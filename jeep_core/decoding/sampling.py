"""Choosing the next token of every row of a batch, each with its own options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import torch

SAMPLED_TOGETHER = 16
"""Rows: what is computed in between for more of them, in float64, needs so much memory that the
process may give it back and fetch it again at every step, which takes longer than the computing.
"""
Ranked = tuple[tuple[int, float], ...]
"""The most probable tokens at one place with their log-probabilities (nats), the best first."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen; ``temperature`` 0 is greedy.  ``top`` most probable are reported.

    ``stop_ids`` are tokens that end the text besides the model's own.  With ``prompt_top`` the
    tokens of the prompt are scored, too, and so many of the most probable ones reported.
    ``sentence``: the text ends once its first sentence is whole; the token that shows this, the
    first one after the sentence, is still a part of it.
    """

    max_new_tokens: int = 16
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float = 1.0
    seed: int | str | None = None
    stop: tuple[str, ...] = ()
    top: int = 0
    stop_ids: frozenset[int] = frozenset()
    prompt_top: int | None = None
    sentence: bool = False


@dataclass(frozen=True)
class Choice:
    """A chosen token with its log-probability under the model, and the most probable tokens.

    Both come from the same numbers: the most probable token has exactly the first value.
    """

    id: int
    log_probability: float
    top: Ranked = ()


@torch.no_grad()
def choose(
    logits: torch.Tensor, sampling: Sequence[Sampling], randoms: Sequence[Random]
) -> list[Choice | None]:
    """One token for every row of ``logits`` (n, vocabulary); None for one that is not finite.

    A row that is sampled takes one number from its own generator, so that its tokens do not
    depend on the other rows.  Probabilities are those before temperature and truncation.
    """
    log_probabilities = logits.float().log_softmax(dim=-1)
    ids = log_probabilities.argmax(dim=-1)
    # a NaN or +inf among a row's logits makes its best log-probability NaN
    finite = log_probabilities.gather(1, ids[:, None])[:, 0].isfinite().tolist()
    hot = [i for i, s in enumerate(sampling) if s.temperature > 0 and finite[i]]
    if hot:
        for few in (hot[at : at + SAMPLED_TOGETHER] for at in range(0, len(hot), SAMPLED_TOGETHER)):
            draws = torch.tensor([randoms[i].random() for i in few], dtype=torch.float64)
            rows = log_probabilities[few].cpu()
            ids[few] = _sampled(rows, [sampling[i] for i in few], draws).to(ids.device)
    # (n,)
    chosen = log_probabilities.gather(1, ids[:, None])[:, 0]
    most = min(max(s.top for s in sampling), logits.shape[1])
    tops: list[Ranked] = [()] * len(sampling)
    if most:
        best = log_probabilities.topk(most)
        found = zip(sampling, best.indices.tolist(), best.values.tolist(), strict=True)
        tops = [tuple(zip(i[: s.top], p[: s.top], strict=True)) for s, i, p in found]
    parts = zip(finite, ids.tolist(), chosen.tolist(), tops, strict=True)
    return [
        Choice(token, log_probability, top) if is_finite else None
        for is_finite, token, log_probability, top in parts
    ]


def _sampled(
    log_probabilities: torch.Tensor, sampling: Sequence[Sampling], draws: torch.Tensor
) -> torch.Tensor:
    """Ids (n,) by inversion of the distribution at ``draws`` (n,) from [0, 1)."""
    size = log_probabilities.shape[1]
    temperature = torch.tensor([s.temperature for s in sampling], dtype=torch.float64)
    best = log_probabilities.max(dim=1, keepdim=True).values
    # the best one stays at 0, so no temperature is too small
    scores = (log_probabilities - best).double() / temperature[:, None]
    if any(s.top_k is not None for s in sampling):
        last = torch.tensor([min(s.top_k or size, size) - 1 for s in sampling])
        # (n, 1): the score of the k-th best, k by row
        kth = scores.sort(dim=1, descending=True).values.gather(1, last[:, None])
        scores = scores.masked_fill(scores < kth, -torch.inf)
    probabilities = scores.softmax(dim=1)
    if any(s.top_p < 1 for s in sampling):
        limit = [s.top_p if s.top_p < 1 else torch.inf for s in sampling]
        ordered, index = probabilities.sort(dim=1, descending=True)
        # a token stays while the mass before it is below top_p; the first always does
        before = ordered.cumsum(dim=1) - ordered
        ordered[before >= torch.tensor(limit, dtype=torch.float64)[:, None]] = 0.0
        probabilities = torch.zeros_like(probabilities).scatter(1, index, ordered)
    cumulative = probabilities.cumsum(dim=1)
    places = torch.searchsorted(cumulative, (draws * cumulative[:, -1])[:, None], right=True)
    return places[:, 0].clamp(max=size - 1)
