"""Vectors that are optimised, one row per fact, and what their optimisers remember of them.

In comments n is the number of facts that are optimised together, d the hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from jeep_core.spec.hparams import Region
from jeep_core.values.objective import Objective

ADAM_BETAS = (0.9, 0.999)
ADAM_EPSILON = 1e-8
LEAST = 0.3
"""Smallest gain of log-odds that one of Newton's steps aims at."""


class Vectors:
    """One (n, d) float32 tensor to which rows are added and from which they are taken.

    ``first`` and ``second`` (n, d) are what an optimiser remembers: Adam its running means of
    gradient and squared gradient, Newton the best vectors so far and the gradients there.
    """

    def __init__(self, size: int, rate: float) -> None:
        self.rate = rate
        self.value = self.first = self.second = torch.zeros(0, size)

    def to(self, device: torch.device) -> None:
        """Move to a device."""
        self.value, self.first, self.second = (
            t.to(device) for t in (self.value, self.first, self.second)
        )

    def add(self, rows: int) -> None:
        """Add ``rows`` rows, at zero."""
        new = self.value.new_zeros(rows, self.value.shape[1])
        self.value, self.first, self.second = (
            torch.cat([t, new]) for t in (self.value, self.first, self.second)
        )

    def keep(self, index: torch.Tensor) -> None:
        """Drop all rows but those of ``index`` (k,)."""
        self.value, self.first, self.second = (
            t[index] for t in (self.value, self.first, self.second)
        )

    def adam(self, gradient: torch.Tensor, count: torch.Tensor, moving: torch.Tensor) -> None:
        """One update of Adam by ``gradient`` (n, d), each row's number ``count`` (n,).

        Rows that are not ``moving`` (n,) stay as they are.
        """
        b1, b2 = ADAM_BETAS
        first = self.first.mul(b1).add_(gradient, alpha=1 - b1)
        second = self.second.mul(b2).addcmul_(gradient, gradient, value=1 - b2)
        # bias corrections (n, 1) by row: rows have joined at different steps
        scale = (self.rate / (1 - b1**count))[:, None]
        corrected = second.div((1 - b2**count)[:, None]).sqrt_().add_(ADAM_EPSILON)
        value = self.value.sub(first / corrected * scale)
        self.value, self.first, self.second = (
            torch.where(moving[:, None], new, old)
            for new, old in (
                (value, self.value),
                (first, self.first),
                (second, self.second),
            )
        )

    def clamp(self, limit: torch.Tensor) -> None:
        """Project every row onto ‖row‖ ≤ ``limit`` (n,)."""
        norm = self.value.norm(dim=1)
        factor = (limit / norm.clamp_min(1e-30)).clamp(max=1.0)
        # limit / infinity is 0, which would hide a step that is too large: the next loss shows it
        self.value.mul_(torch.where(norm.isfinite(), factor, torch.nan)[:, None])


class Site:
    """One added vector per fact, and the unedited state (n, d) it is added to.

    ``chat_reference`` (n, d) is that state in the second context, if there is one.
    """

    def __init__(self, region: Region, trained: bool, size: int, objective: Objective) -> None:
        self.region, self.trained = region, trained
        self.vectors = Vectors(size, region.learning_rate or objective.learning_rate)
        self.reference = torch.zeros(0, size)
        self.chat_reference = torch.zeros(0, size)

    def to(self, device: torch.device) -> Site:
        """The site on a device, empty."""
        self.vectors.to(device)
        self.reference = self.reference.to(device)
        self.chat_reference = self.chat_reference.to(device)
        return self

    def add(self, rows: int) -> None:
        """Add ``rows`` rows, at zero."""
        self.vectors.add(rows)
        new = self.reference.new_zeros(rows, self.reference.shape[1])
        self.reference = torch.cat([self.reference, new])
        self.chat_reference = torch.cat([self.chat_reference, new])

    def keep(self, index: torch.Tensor) -> None:
        """Drop all rows but those of ``index`` (k,)."""
        self.vectors.keep(index)
        self.reference = self.reference[index]
        self.chat_reference = self.chat_reference[index]

    def decay(self, delta: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """β‖δ‖/‖h‖² (g,) of ``delta`` and ``reference`` (g, d), the states before any δ.

        At δ = 0, the start, torch's gradient of ‖δ‖ is 0.
        """
        part: torch.Tensor = delta.norm(dim=1) / reference.norm(dim=1).square()
        return self.region.weight_decay * part

    def clamp(self) -> None:
        """Bring the vectors into γ‖h‖."""
        self.vectors.clamp(self.region.clamp * self.reference.norm(dim=1))


Sites = Mapping[str, Site]
Gradients = Mapping[str, torch.Tensor]
"""Gradients (n, d) by site."""


def adam_step(
    sites: Sites, gradients: Gradients, count: torch.Tensor, moving: torch.Tensor
) -> None:
    """One update of the sites that ``gradients`` names, each row's number ``count`` (n,).

    Facts that are not ``moving`` (n,) stay where they are.
    """
    for name, gradient in gradients.items():
        sites[name].vectors.adam(gradient, count, moving)
        sites[name].clamp()


class Trust:
    """Newton's steps along the gradient, shorter after one that made the loss larger.

    ``best`` (n,) is each fact's smallest loss so far, ``idle`` (n,) the passes since it last fell
    by a thousandth, ``reach`` (n,) how far the next step may go, as a share of the longest.
    """

    def __init__(self, device: torch.device) -> None:
        self.best = self.idle = self.reach = torch.zeros(0, device=device)

    def add(self, rows: int) -> None:
        """Add ``rows`` facts."""
        self.best = torch.cat([self.best, self.best.new_full((rows,), torch.inf)])
        self.idle = torch.cat([self.idle, self.idle.new_zeros(rows)])
        self.reach = torch.cat([self.reach, self.reach.new_ones(rows)])

    def keep(self, index: torch.Tensor) -> None:
        """Drop all facts but those of ``index`` (k,)."""
        self.best, self.idle, self.reach = (t[index] for t in (self.best, self.idle, self.reach))

    def waited(self, loss: torch.Tensor) -> torch.Tensor:
        """Passes (n,) since the loss, (n,) at present, last fell by a thousandth."""
        self.idle = torch.where(loss < 0.999 * self.best, 0.0, self.idle + 1)
        return self.idle

    def take_back(self, sites: Sites, back: torch.Tensor) -> None:
        """Put the best vectors in place of the last ones of the facts ``back`` (n,)."""
        for site in sites.values():
            if site.trained:
                vectors = site.vectors
                vectors.value = torch.where(back[:, None], vectors.first, vectors.value)

    def measured(self, sites: Sites, gradients: Gradients, loss: torch.Tensor) -> None:
        """Remember the vectors, those without gain taken back, and the gradients of those with.

        ``loss`` (n,) is that of the vectors.  After a step without gain the next one goes half as
        far at most; else it may go twice as far.
        """
        better = loss < self.best
        self.best = torch.where(better, loss, self.best)
        for name, gradient in gradients.items():
            vectors = sites[name].vectors
            vectors.first = vectors.value.clone()
            vectors.second = torch.where(better[:, None], gradient, vectors.second)
        self.reach = torch.where(better, (2 * self.reach).clamp(max=1.0), self.reach / 2)

    def forget(self, chosen: torch.Tensor) -> None:
        """Forget the losses of the facts ``chosen`` (n,): the next ones are of other rows."""
        self.best = torch.where(chosen, torch.inf, self.best)
        self.idle = torch.where(chosen, 0.0, self.idle)

    def step(
        self, sites: Sites, names: Mapping[str, object], goal: float, moving: torch.Tensor
    ) -> None:
        """One step of the sites in ``names`` from the best vectors towards the log-odds ``goal``.

        Facts that are not ``moving`` (n,) stay where they are.
        No vector of d numbers moves further than its learning rate times √d, which is how far
        Adam's first step goes.
        """
        rates = {name: sites[name].vectors.rate for name in names}
        # a site whose states spread more moves further, as with Adam; only their ratio matters
        weights = {name: (rate / max(rates.values())) ** 2 for name, rate in rates.items()}
        squared = [weights[n] * sites[n].vectors.second.square().sum(dim=1) for n in names]
        scale = newton(self.best, torch.stack(squared).sum(dim=0), goal)
        scale = torch.where(moving, scale, 0.0)
        share = torch.zeros_like(scale)
        for name in names:
            vectors = sites[name].vectors
            move = (scale * weights[name])[:, None] * vectors.second
            longest = rates[name] * move.shape[1] ** 0.5
            # (n,): the step as a share of the longest one, cut to what may be gone
            wanted = move.norm(dim=1) / longest
            gone = torch.minimum(wanted, self.reach)
            shorten = torch.where(wanted > self.reach, self.reach / wanted, 1.0)
            vectors.value.sub_(move * shorten[:, None])
            sites[name].clamp()
            share = torch.maximum(share, gone)
        self.reach = torch.where(moving, share, self.reach)


def newton(loss: torch.Tensor, squared: torch.Tensor, goal: float) -> torch.Tensor:
    """Newton's step for the log-odds along the gradient, as its multiple (n,).

    ``loss`` L (n,) is -log p, ``squared`` (n,) the squared norm of its gradient.  The log-odds
    log(p / (1 - p)) of an answer are much nearer to linear in a hidden state than L: where p is
    nearly 0 both have the same slope, and where p is nearly 1 that of L vanishes.  The step is
    the one at which their linear continuation reaches ``goal``, at least ``LEAST`` from here.
    """
    loss = loss.clamp_min(1e-6)
    rest = -torch.expm1(-loss)  # 1 - p
    missing = (goal + loss + rest.log()).clamp_min(LEAST)
    # the gradient of the log-odds is that of L over -(1 - p)
    multiple: torch.Tensor = missing * rest / squared.clamp_min(1e-30)
    return multiple
