"""Readings of the head in every state: probability and rank of both answers (paper eq. 5, 6)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from jeep_core.models.token_rows import stack_rows
from jeep_core.models.views import ModelView
from jeep_core.monitor import NOTHING, Monitor
from jeep_core.probe.bands import band
from jeep_core.probe.prompts import Prompt, batches
from jeep_core.probe.states import POSITIONS, SITES, captured, run
from jeep_core.probe.word_sets import WordSets
from jeep_core.spec.finite import OTHER_VERSION, check_tensor

Lens = Literal["final_norm", "no_norm"]
LENSES: tuple[Lens, ...] = ("final_norm", "no_norm")
ANSWERS = ("original", "target")
LOGITS_TOGETHER = 2**24
"""Most logits held at once, in elements."""


@dataclass(frozen=True)
class Readings:
    """``probability`` and ``rank`` (n, 2 lenses, 2 answers, 2 positions, 1 + 3 L).

    Along the last dimension: the embedding, then L block outputs, L states after attention and
    L after the MLP.  ``words`` (n, sets, 1 + L): mean probability of the tokens of each word
    set at the prediction position, through the final norm, in the embedding and block outputs;
    NaN for a set without tokens.
    """

    probability: torch.Tensor
    rank: torch.Tensor
    words: torch.Tensor | None

    @property
    def n_layers(self) -> int:
        """L."""
        # the last dimension is 1 + 3 L
        return (self.probability.shape[-1] - 1) // 3

    def of(self, name: str, lens: str, answer: str, position: str, site: str) -> torch.Tensor:
        """``probability`` or ``rank`` (n, L) at a site; at site ``embedding`` (n, 1)."""
        table: torch.Tensor = getattr(self, name)
        first, size = 0, 1
        if site != "embedding":
            first, size = 1 + _index(SITES, site) * self.n_layers, self.n_layers
        where = (_index(LENSES, lens), _index(ANSWERS, answer), _index(POSITIONS, position))
        return table[:, where[0], where[1], where[2], first : first + size]

    def added(self, name: str, answer: str, position: str, branch: str) -> torch.Tensor:
        """The contribution (n, L) of each block's ``attention`` or ``mlp``, through the final norm.

        The MLP's contribution is measured from the stream after attention.
        """

        def at(site: str) -> torch.Tensor:
            return self.of(name, "final_norm", answer, position, site)

        if branch == "mlp":
            return at("output") - at("after_attention")
        # (n, L): what enters each block, the output of the one before it
        before = torch.cat([at("embedding"), at("output")[:, :-1]], dim=1)
        return at("after_attention") - before

    def promotion(self, branch: str) -> torch.Tensor:
        """A branch's contribution (n, L) to P(original) - P(target) at the prediction position."""
        original, target = (self.added("probability", a, "prediction", branch) for a in ANSWERS)
        return original - target

    def record(self) -> dict[str, Any]:
        """Means and bands as JSON: lens → position → site → answer → probability and rank."""
        names = ("probability", "rank")

        def answers(lens: str, position: str, site: str) -> dict[str, Any]:
            return {
                a: {n: band(self.of(n, lens, a, position, site)).record() for n in names}
                for a in ANSWERS
            }

        return {
            lens: {
                position: {s: answers(lens, position, s) for s in ("embedding", *SITES)}
                for position in POSITIONS
            }
            for lens in LENSES
        }


def _index(names: Sequence[str], name: str) -> int:
    return names.index(name)


@torch.no_grad()
def read(
    view: ModelView,
    prompts: Sequence[Prompt],
    sets: WordSets | None = None,
    monitor: Monitor = NOTHING,
) -> Readings:
    """Read both answers in every state of every prompt.

    Raises:
        Whatever ``monitor.check`` raises; it is called before every batch.
        NumericalError: a probability is not finite.
    """
    rows = [prompt.tokens for prompt in prompts]
    size = 1 + 3 * view.base.n_layers
    probability = torch.zeros(len(rows), len(LENSES), len(ANSWERS), len(POSITIONS), size)
    rank = torch.zeros_like(probability)
    words = (
        None if sets is None else torch.zeros(len(rows), len(sets.names), 1 + view.base.n_layers)
    )
    done = 0
    for chosen in batches(rows):
        monitor.check()
        states = _states(view, [rows[i] for i in chosen])
        tokens = torch.tensor([[prompts[i].original, prompts[i].target] for i in chosen])
        for lens, _ in enumerate(LENSES):
            # (r, 2, 1 + 3 L, d); norms are computed once for all its states
            normed = states if lens else view.base.family.final_norm_of(view.model)(states)
            p, r = _answers(view, normed, tokens.to(states.device))
            probability[chosen, lens], rank[chosen, lens] = p.cpu(), r.cpu()
            if words is not None and sets is not None and not lens:
                words[chosen] = _words(view, normed, sets, chosen).cpu()
        done += len(chosen)
        monitor.report("read", done, len(rows))
    return Readings(probability, rank, words)


def _states(view: ModelView, rows: Sequence[Any]) -> torch.Tensor:
    """(r, 2, 1 + 3 L, d)."""
    batch = stack_rows(rows, view.base.device)
    with captured(view, batch) as states:
        run(view, batch)
    return torch.cat([states.embedding[:, :, None], *(states.site(s) for s in SITES)], dim=2)


def _answers(
    view: ModelView, states: torch.Tensor, tokens: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Probability and rank (r, answers, 2, S) of ``tokens`` (r, answers) in states (r, 2, S, d).

    The rank is the number of tokens with a higher probability.
    """
    r, positions, size, _ = states.shape
    # (r · 2 · S, answers): each state's row of tokens, in the order of the flat states
    per_row = tokens[:, None, None].expand(r, positions, size, tokens.shape[1]).flatten(0, 2)
    found = []
    for place, logits in _logits(view, states.flatten(0, 2)):
        # (rows, answers) logits of the answers among (rows, V)
        own = logits.gather(1, per_row[place])
        p = (own - logits.logsumexp(dim=1, keepdim=True)).exp()
        check_tensor(p, "the probability that a state gives to an answer", OTHER_VERSION)
        # answer by answer: one comparison (rows, V) is held at a time
        above = torch.stack(
            [(logits > own[:, i, None]).sum(dim=1) for i in range(own.shape[1])], dim=1
        )
        found.append(torch.stack([p, above.float()]))
    # (2 figures, r · 2 · S, answers) to (2, r, answers, 2, S)
    both = torch.cat(found, dim=1).view(2, r, positions, size, -1).permute(0, 1, 4, 2, 3)
    return both[0], both[1]


def _words(
    view: ModelView, states: torch.Tensor, sets: WordSets, chosen: Sequence[int]
) -> torch.Tensor:
    """Mean probability (r, sets, 1 + L) at the prediction position."""
    own = states[:, POSITIONS.index("prediction"), : 1 + view.base.n_layers]
    found = []
    for row, i in enumerate(chosen):
        # (sets, V); sizes (sets,), 0 for a set without tokens: 0 / 0 is the NaN it gets
        masks = sets.masks(i, view.base.vocabulary).to(own.device)
        sizes = masks.sum(dim=1)
        sums = [logits.softmax(dim=1) @ masks.T for _, logits in _logits(view, own[row])]
        # (1 + L, sets) to (sets, 1 + L)
        found.append((torch.cat(sums) / sizes).T)
    return torch.stack(found)


def _logits(view: ModelView, states: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    """Logits of states (n, d) in float32, a bounded number at a time."""
    step = max(1, LOGITS_TOGETHER // view.base.vocabulary)
    for start in range(0, len(states), step):
        place = slice(start, start + step)
        yield place, view.base.family.logits_of(view.model, states[place]).float()
