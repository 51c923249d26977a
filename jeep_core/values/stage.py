"""Facts in progress that are asked the same texts: what is known of each, a pass, an update.

In comments n is the number of facts, d the hidden size, V the vocabulary, m the places at which the
head is read.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

from jeep_core.models.lines import Lines
from jeep_core.models.upper_blocks import UpperStack
from jeep_core.values.asked import Asked, Texts
from jeep_core.values.found import Found
from jeep_core.values.objective import WRITTEN_KL, Objective
from jeep_core.values.sites import Site, Slopes, Trust, adam_step

PATIENCE = 4
"""Passes without gain after which a fact stops: its vector lies at its clamp, or as good as."""


class Stage:
    """Some facts of a pool, asked all of their ``texts``, or those of the ``first`` prefixes.

    ``index``, ``passes``, ``moves`` (updates), ``nll_weight`` (n,) and ``kl_before`` (n, V) have an
    entry per fact, and so have ``lines``, of all texts.  ``bytes_per_token``: memory that the
    backward pass keeps for a token that is asked, 0 before it was counted.
    """

    def __init__(
        self,
        stack: UpperStack,
        objective: Objective,
        texts: Texts,
        first: int | None = None,
    ) -> None:
        base = stack.view.base
        self.stack, self.objective = stack, objective
        self.chosen = None if first is None else texts.first(first)
        self.texts = texts if first is None else texts.at_most(first)
        self.sites = sites_of(objective, base.hidden_size, base.device)
        self.lines: Lines | None = None
        # the lines of the texts that are asked, None after a change
        self._asked: Asked | None = None
        self.index = torch.zeros(0, dtype=torch.long, device=base.device)
        self.passes = self.moves = torch.zeros(0, device=base.device)
        self.nll_weight = torch.zeros(0, device=base.device)
        self.kl_before = torch.zeros(0, base.vocabulary, device=base.device)
        self.trust = Trust(base.device)
        self.bytes_per_token = 0.0
        # of Newton's steps: what was measured at each fact's best vectors so far
        self.measured: Found | None = None

    def __len__(self) -> int:
        return len(self.index)

    # ------------------------------------------------------------ who is in

    def add(self, index: torch.Tensor, lines: Lines) -> None:
        """Add the facts ``index`` (k,) at δ = 0."""
        self._join(index, lines)
        # `_forward` fills in the entries of a fact whose passes are 0
        self.passes, self.moves, self.kl_before = (
            torch.cat([t, t.new_zeros(len(index), *t.shape[1:])])
            for t in (self.passes, self.moves, self.kl_before)
        )
        self.nll_weight = torch.cat([self.nll_weight, self.nll_weight.new_ones(len(index))])
        self.trust.add(len(index))
        for site in self.sites.values():
            site.add(len(index))

    def take(self, other: Stage, chosen: torch.Tensor) -> None:
        """Add the facts of another stage at the places ``chosen`` (k,), where they are now."""
        assert other.lines is not None
        self._join(other.index[chosen], other.lines.keep(chosen))
        self.passes = torch.cat([self.passes, other.passes[chosen]])
        self.moves = torch.cat([self.moves, other.moves[chosen]])
        self.kl_before = torch.cat([self.kl_before, other.kl_before[chosen]])
        # that an answer is written was found of other rows
        self.nll_weight = torch.cat([self.nll_weight, self.nll_weight.new_ones(len(chosen))])
        self.trust.take(other.trust, chosen)
        for name, site in self.sites.items():
            site.take(other.sites[name], chosen)

    def _join(self, index: torch.Tensor, lines: Lines) -> None:
        self.lines = lines if self.lines is None else self.lines.join(lines)
        self.index, self._asked = torch.cat([self.index, index]), None
        self.measured = self.measured and self.measured.grown(len(index))

    def keep(self, index: torch.Tensor) -> None:
        """Drop all facts but those at the places ``index`` (k,)."""
        self.lines = self.lines.keep(index) if self.lines and len(index) else None
        self._asked = None
        self.index, self.passes, self.moves = (
            t[index] for t in (self.index, self.passes, self.moves)
        )
        self.nll_weight, self.kl_before = self.nll_weight[index], self.kl_before[index]
        self.trust.keep(index)
        self.measured = self.measured and self.measured.keep(index)
        for site in self.sites.values():
            site.keep(index)

    # ------------------------------------------------------------ one step

    @property
    def asked(self) -> Asked:
        """The lines of the texts that a pass asks."""
        if self._asked is None:
            assert self.lines is not None
            lines = self.lines if self.chosen is None else self.lines.only(self.chosen)
            self._asked = Asked(lines, self.texts)
        return self._asked

    @property
    def with_gradients(self) -> bool:
        """Whether the next pass needs them: no update follows a fact's last pass."""
        return bool((self.passes < self.objective.n_steps - 1).any())

    def evaluate(
        self, products: AbstractContextManager[object], counted: AbstractContextManager[object]
    ) -> tuple[Found, Slopes]:
        """The result of a pass, and the gradients (n, d) of the vectors that are optimised."""
        with_gradients = self.with_gradients
        deltas = {
            # (n, d) leaves that share Adam's memory, which is written after the backward pass only
            name: site.vectors.value.detach().requires_grad_(with_gradients and site.trained)
            for name, site in self.sites.items()
        }
        with torch.set_grad_enabled(with_gradients), products, counted:
            found = self._forward(deltas)
        gradients: dict[str, torch.Tensor] = {}
        if with_gradients:
            trained = [name for name, site in self.sites.items() if site.trained]
            # facts are independent: the gradient of the sum is each fact's own
            grads = torch.autograd.grad(found.loss.sum(), [deltas[name] for name in trained])
            gradients = dict(zip(trained, grads, strict=True))
        self.passes = self.passes + 1
        found = found.detached()
        at = {name: self.sites[name].vectors.value for name in gradients}
        return found, Slopes(found.loss, at, gradients)

    def judge(self, found: Found, stop_probability: float | None) -> tuple[Found, torch.Tensor]:
        """The result to go by, and which facts are done (n,).

        A fact that is done keeps the δ that this pass has measured.
        """
        o = self.objective
        done = torch.zeros_like(found.written)
        if stop_probability is not None:
            done |= found.probability >= stop_probability
        if o.stop_loss is not None:
            done |= found.loss < o.stop_loss
        if o.written_weight is not None:
            done |= found.written & (found.kl_loss <= WRITTEN_KL)
            self.nll_weight = torch.where(found.written, o.written_weight, 1.0)
        if o.margin is not None:
            done &= found.written
        stopped = done | (self.passes >= o.n_steps)
        if o.goal is not None:
            stopped |= self.trust.waited(found.loss) >= PATIENCE
            found = self._best(found, done)
        return found, stopped

    def _best(self, found: Found, done: torch.Tensor) -> Found:
        """The result to go by: of a fact that is not ``done`` (n,), the one at its best vectors.

        A step that led to a larger loss is taken back; a fact that ends with one keeps the
        vectors before it.
        """
        if self.measured is not None:
            back = ~done & (found.loss >= self.trust.best)
            found = self.measured.where(back, found)
            self.trust.take_back(self.sites, back)
        self.measured = found
        return found

    def move(self, slopes: Slopes, moving: torch.Tensor) -> None:
        """One update of the facts that are ``moving`` (n,)."""
        self.moves = self.moves + moving
        if self.objective.goal is None:
            adam_step(self.sites, slopes.gradients, self.moves.clamp_min(1), moving)
        else:
            self.trust.step(self.sites, slopes, self.objective.goal, moving)

    def _forward(self, deltas: dict[str, torch.Tensor]) -> Found:
        """Losses (n,) and states (n, d) from ``deltas`` (n, d) by site.

        At a fact's first pass every δ is zero: that pass gives the unedited states and the
        unedited distribution.
        """
        asked, texts = self.asked, self.texts
        first = (self.passes == 0)[:, None]
        hidden, seen = self.stack.forward(asked.lines, deltas)  # (n, q, d), (n, k, d) by site
        chat = texts.rows - texts.chat
        for name, site in self.sites.items():
            # (n, d): the row with the empty prefix is the first of its context
            states = seen[name].detach().float()
            site.reference = torch.where(first, states[:, 0], site.reference)
            if texts.chat:
                site.chat_reference = torch.where(first, states[:, chat], site.chat_reference)
        # (m, V) at the m places that are read, of which n are those of the KL rows, fact by fact
        read = self.stack.log_probabilities(asked.lines, hidden)
        nll_rows, written = asked.of_targets(read, self.objective.margin)
        # after (n, V): KL(edited ‖ unedited) at the subject's last token of the KL row
        after = read[asked.is_kl()]
        self.kl_before = torch.where(first, after.detach(), self.kl_before)
        kl_loss = self.objective.kl_weight * (after.exp() * (after - self.kl_before)).sum(dim=1)
        # (n, rows) to (n,): a fact counts with the mean over its prefixes
        loss = self.nll_weight * asked.mean(nll_rows) + kl_loss
        for name, site in self.sites.items():
            loss = loss + site.decay(deltas[name], site.reference)
        # states without δ*, but moved by δ': what δ* is added to at the end
        high = seen["high"][:, 0].float() if "high" in seen else None
        chat_high = seen["high"][:, chat].float() if "high" in seen and texts.chat else None
        probability = asked.mean(nll_rows.neg().exp())
        return Found(loss, kl_loss, probability, written, high, chat_high)


def sites_of(objective: Objective, size: int, device: torch.device) -> dict[str, Site]:
    """The sites of an objective by name, without a fact yet; vectors have ``size`` numbers."""
    o = objective
    regions = {"low": (o.low, o.train != "high")}
    if o.low_site == "mlp_and_attention":
        regions["attention"] = (o.low, True)
    if o.high:
        regions["high"] = (o.high, o.train != "low")
    return {
        name: Site(region, trained, size, o).to(device)
        for name, (region, trained) in regions.items()
    }
