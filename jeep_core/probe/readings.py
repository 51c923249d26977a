"""Readings of the head in every state: probability and rank of both answers (paper eq. 5, 6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal

import torch

from jeep_core.executors.here import HERE
from jeep_core.executors.work import Bench, Executor, Work
from jeep_core.models.token_rows import stack_rows
from jeep_core.models.views import ModelView
from jeep_core.monitor import NOTHING, Monitor
from jeep_core.probe.bands import band
from jeep_core.probe.head import logits_in_parts, probabilities
from jeep_core.probe.prompts import Prompt, batches
from jeep_core.probe.states import POSITIONS, SITES, Site, captured, run
from jeep_core.probe.word_sets import WordSets
from jeep_core.spec.finite import OTHER_VERSION, check_tensor
from jeep_core.spec.positions import PromptTokens

TASK = "jeep_core.probe.readings:read_unit"
Lens = Literal["final_norm", "no_norm"]
LENSES: tuple[Lens, ...] = ("final_norm", "no_norm")
ANSWERS = ("original", "target")
READ_TOKENS = 512
"""Most tokens of a batch: each has states of a few sites of every block."""


@dataclass(frozen=True)
class Readings:
    """``probability`` and ``rank`` (n, 2 lenses, 2 answers, 2 positions, 1 + 3 L).

    Along the last dimension: the embedding, then L block outputs, L states after attention and
    L after the MLP.  ``words`` (n, sets, 1 + L): mean probability of the tokens of each word
    set at the prediction position, through the final norm, in the embedding and block outputs;
    NaN for a set without tokens.  NaN is also what was not read.
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
        """Means and bands as JSON: lens → position → site → answer → probability and rank.

        Without what was not read.
        """
        found: dict[str, Any] = {}
        places = product(LENSES, POSITIONS, ("embedding", *SITES), ANSWERS, ("probability", "rank"))
        for lens, position, site, answer, name in places:
            values = self.of(name, lens, answer, position, site)
            if not values.isnan().any():
                inner = found
                for key in (lens, position, site, answer):
                    inner = inner.setdefault(key, {})
                inner[name] = band(values).record()
        return found

    def some(self, rows: Sequence[int]) -> Readings:
        """Those of some prompts."""
        words = None if self.words is None else self.words[rows]
        return Readings(self.probability[rows], self.rank[rows], words)

    def joined(self, other: Readings) -> Readings:
        """These, then those of other prompts; word sets are left out."""
        probability = torch.cat([self.probability, other.probability])
        return Readings(probability, torch.cat([self.rank, other.rank]), None)


def _index(names: Sequence[str], name: str) -> int:
    return names.index(name)


@dataclass(frozen=True)
class ReadingUnit:
    """r prompts that are run together: their rows, the tokens (r, 2) of both answers, and their
    word sets, if any.
    """

    rows: Sequence[PromptTokens]
    tokens: torch.Tensor
    sets: WordSets | None = None


def read(
    view: ModelView,
    prompts: Sequence[Prompt],
    sets: WordSets | None = None,
    monitor: Monitor = NOTHING,
    *,
    only_promotion: bool = False,
    executor: Executor = HERE,
) -> Readings:
    """Read both answers in every state of every prompt, by batches that ``executor`` runs.

    ``only_promotion``: only probabilities through the final norm at the prediction position, in
    the embedding, the block outputs and after attention: what the branches of a block promote.

    Raises:
        NumericalError: a probability is not finite.
        WorkersLost, NoCluster: the executor's workers are gone.
        Whatever ``monitor.check`` raises; it is called before every batch.
    """
    rows, layers = [prompt.tokens for prompt in prompts], view.base.n_layers
    shape = (len(rows), len(LENSES), len(ANSWERS), len(POSITIONS), 1 + 3 * layers)
    probability, rank = torch.full(shape, torch.nan), torch.full(shape, torch.nan)
    words = None if sets is None else torch.zeros(len(rows), len(sets.names), 1 + layers)
    cut, units = batches(rows, READ_TOKENS), []
    for chosen in cut:
        tokens = torch.tensor([[prompts[i].original, prompts[i].target] for i in chosen])
        own = None if sets is None else replace(sets, tokens=[sets.tokens[i] for i in chosen])
        units.append(ReadingUnit([rows[i] for i in chosen], tokens, own))
    work = Work(TASK, "read", only_promotion, units, [len(chosen) for chosen in cut])
    first = _first_position(only_promotion)
    for chosen, (both, of_words) in zip(cut, executor.run(work, Bench(view, monitor)), strict=True):
        for lens, (p, r) in enumerate(both):
            probability[chosen, lens, :, first:, : p.shape[-1]] = p
            rank[chosen, lens, :, first:, : r.shape[-1]] = r
        if words is not None:
            words[chosen] = of_words
    # in a sequential model the state after the MLP is the block's output: it is read once
    if not view.base.family.is_parallel(view.model):
        for table in (probability, rank):
            table[..., 1 + 2 * layers :] = table[..., 1 : 1 + layers]
    return Readings(probability, rank, words)


@torch.no_grad()
def read_unit(
    bench: Bench, only_promotion: bool, unit: ReadingUnit
) -> tuple[list[tuple[torch.Tensor, torch.Tensor]], torch.Tensor | None]:
    """Probability and rank (r, 2 answers, p, S) by lens, and word sets (r, sets, 1 + L).

    p positions and S states are those that are read.
    """
    bench.monitor.check()
    view, family = bench.view, bench.view.base.family
    sites = SITES if family.is_parallel(view.model) and not only_promotion else SITES[:2]
    states = _states(view, unit.rows, sites)[:, _first_position(only_promotion) :]
    tokens, found, words = unit.tokens.to(states.device), [], None
    for lens, _ in enumerate(LENSES[:1] if only_promotion else LENSES):
        # (r, p, S, d); norms are computed once for all its states
        normed = states if lens else family.final_norm_of(view.model)(states)
        p, r = _answers(view, normed, tokens, ranks=not only_promotion)
        found.append((p.cpu(), r.cpu()))
        if unit.sets is not None and not lens:
            words = _words(view, normed, unit.sets).cpu()
    return found, words


def _first_position(only_promotion: bool) -> int:
    return POSITIONS.index("prediction") if only_promotion else 0


def _states(view: ModelView, rows: Sequence[PromptTokens], sites: Sequence[Site]) -> torch.Tensor:
    """(r, 2, 1 + n L, d) of n sites."""
    batch = stack_rows(rows, view.base.device)
    with captured(view, batch) as states:
        run(view, batch)
    return torch.cat([states.embedding[:, :, None], *(states.site(s) for s in sites)], dim=2)


def _answers(
    view: ModelView, states: torch.Tensor, tokens: torch.Tensor, ranks: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Probability and rank (r, answers, p, S) of ``tokens`` (r, answers) in states (r, p, S, d).

    The rank is the number of tokens with a higher probability; NaN if ``ranks`` are not asked for.
    """
    r, positions, size, _ = states.shape
    # (r · 2 · S, answers): each state's row of tokens, in the order of the flat states
    per_row = tokens[:, None, None].expand(r, positions, size, tokens.shape[1]).flatten(0, 2)
    found = []
    for place, logits in logits_in_parts(view, states.flatten(0, 2)):
        # (rows, answers) of the answers among logits (rows, V)
        p = probabilities(logits, per_row[place])
        check_tensor(p, "the probability that a state gives to an answer", OTHER_VERSION)
        rank = torch.full_like(p, torch.nan)
        own = logits.gather(1, per_row[place])
        # answer by answer: one comparison (rows, V) is held at a time
        for i in range(own.shape[1] if ranks else 0):
            rank[:, i] = (logits > own[:, i, None]).sum(dim=1, dtype=torch.int32)
        found.append(torch.stack([p, rank]))
    # (2 figures, r · p · S, answers) to (2, r, answers, p, S)
    both = torch.cat(found, dim=1).view(2, r, positions, size, -1).permute(0, 1, 4, 2, 3)
    return both[0], both[1]


def _words(view: ModelView, states: torch.Tensor, sets: WordSets) -> torch.Tensor:
    """Mean probability (r, sets, 1 + L) at the prediction position, of states (r, 2, S, d)."""
    own = states[:, POSITIONS.index("prediction"), : 1 + view.base.n_layers]
    found = []
    for row in range(len(own)):
        # (sets, V); sizes (sets,), 0 for a set without tokens: 0 / 0 is the NaN it gets
        masks = sets.masks(row, view.base.vocabulary).to(own.device)
        sizes = masks.sum(dim=1)
        sums = [logits.softmax(dim=1) @ masks.T for _, logits in logits_in_parts(view, own[row])]
        # (1 + L, sets) to (sets, 1 + L)
        found.append((torch.cat(sums) / sizes).T)
    return torch.stack(found)
