"""Vectors that are optimised, one row per fact, and what their optimisers remember of them.

In comments n is the number of facts that are optimised together, d the hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from jeep_core.spec.hparams import Region
from jeep_core.values.objective import Objective

ADAM_BETAS = (0.9, 0.999)
ADAM_EPSILON = 1e-8
LEAST = 0.3
"""Smallest gain of log-odds that one of Newton's steps aims at."""
GAIN = 0.5
"""Share of the gain that was hoped for after which the next step may go twice as far."""
TINY = 1e-6
"""Losses below it count as this one: the odds stay finite."""


class Vectors:
    """One (n, d) float32 tensor to which rows are added and from which they are taken.

    ``first`` and ``second`` (n, d) are what an optimiser remembers: Adam its running means of
    gradient and squared gradient, Newton the best vectors so far and the gradients of the log-odds
    there.
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

    def take(self, other: Vectors, index: torch.Tensor) -> None:
        """Add the rows ``index`` (k,) of another tensor and what is remembered of them."""
        self.value, self.first, self.second = (
            torch.cat([mine, theirs[index]])
            for mine, theirs in (
                (self.value, other.value),
                (self.first, other.first),
                (self.second, other.second),
            )
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

    def take(self, other: Site, index: torch.Tensor) -> None:
        """Add the rows ``index`` (k,) of another site."""
        self.vectors.take(other.vectors, index)
        self.reference = torch.cat([self.reference, other.reference[index]])
        self.chat_reference = torch.cat([self.chat_reference, other.chat_reference[index]])

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


@dataclass(frozen=True)
class Slopes:
    """The measurements of a pass: losses (n,), places, and the gradients there, (n, d) by site."""

    loss: torch.Tensor
    at: Mapping[str, torch.Tensor]
    gradients: Gradients

    def keep(self, index: torch.Tensor) -> Slopes:
        """Those of the facts ``index`` (k,)."""
        at, gradients = (
            {name: t[index] for name, t in parts.items()} for parts in (self.at, self.gradients)
        )
        return Slopes(self.loss[index], at, gradients)


class Trust:
    """Newton's steps for the log-odds, along their gradient, shorter after one that did harm.

    ``best`` (n,) is each fact's smallest loss so far, ``idle`` (n,) the passes since it last fell
    by a thousandth, ``reach`` (n,) how far the next step may go, as a share of the longest,
    ``hoped`` (n,) how far the log-odds were to rise by the last one.
    """

    def __init__(self, device: torch.device) -> None:
        self.best = self.idle = self.reach = self.hoped = torch.zeros(0, device=device)

    def add(self, rows: int) -> None:
        """Add ``rows`` facts."""
        self.best = torch.cat([self.best, self.best.new_full((rows,), torch.inf)])
        self.idle, self.hoped = (torch.cat([t, t.new_zeros(rows)]) for t in (self.idle, self.hoped))
        self.reach = torch.cat([self.reach, self.reach.new_ones(rows)])

    def keep(self, index: torch.Tensor) -> None:
        """Drop all facts but those of ``index`` (k,)."""
        self.best, self.idle, self.reach, self.hoped = (
            t[index] for t in (self.best, self.idle, self.reach, self.hoped)
        )

    def take(self, other: Trust, index: torch.Tensor) -> None:
        """Add the facts ``index`` (k,) of another; their losses are forgotten, as the next ones are
        of other rows."""
        self.add(len(index))
        self.reach[-len(index) :], self.hoped[-len(index) :] = (
            other.reach[index],
            other.hoped[index],
        )

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

    def step(self, sites: Sites, found: Slopes, goal: float, moving: torch.Tensor) -> None:
        """One step towards the log-odds ``goal`` of the facts that are ``moving`` (n,).

        It starts where the log-odds are highest on the way from the best vectors so far to those
        of ``found``, by a parabola through both and their slopes: a step that went too far
        then tells where it should have ended.  No vector of d numbers moves further than its
        learning rate times √d, which is how far Adam's first step goes.
        """
        start, odds, along = self._start(sites, found)
        rates = {name: sites[name].vectors.rate for name in along}
        # a site whose states spread more moves further, as with Adam; only their ratio matters
        weights = {name: (rate / max(rates.values())) ** 2 for name, rate in rates.items()}
        squared = torch.stack([weights[n] * g.square().sum(dim=1) for n, g in along.items()])
        missing = (goal - odds).clamp_min(LEAST)
        scale = missing / squared.sum(dim=0).clamp_min(1e-30)
        # (n,) by site: the step as a share of the longest one, before it is cut to the reach
        moves = {n: (scale * weights[n])[:, None] * g for n, g in along.items()}
        wanted = {n: m.norm(dim=1) / (rates[n] * m.shape[1] ** 0.5) for n, m in moves.items()}
        farthest = torch.stack(list(wanted.values())).amax(dim=0)
        shorten = torch.where(farthest > self.reach, self.reach / farthest, 1.0)
        for name, move in moves.items():
            moved = start[name] + move * shorten[:, None]
            vectors = sites[name].vectors
            vectors.value = torch.where(moving[:, None], moved, vectors.value)
            sites[name].clamp()
        self.reach = torch.where(moving, farthest * shorten, self.reach)
        self.hoped = torch.where(moving, missing * shorten, self.hoped)

    def _start(
        self, sites: Sites, found: Slopes
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor, dict[str, torch.Tensor]]:
        """Where the next step starts (n, d) by site, the log-odds (n,) and their gradient there.

        What was measured is remembered where it is the best, and says how far that step may go:
        half as far after one without gain, and twice as far after one that brought half of what
        was hoped for.
        """
        first, better = self.best.isinf(), found.loss < self.best
        then, now = log_odds(torch.where(first, found.loss, self.best)), log_odds(found.loss)
        # the gradient of the log-odds is that of the loss over -(1 - p)
        rest = torch.expm1(-found.loss.clamp_min(TINY))[:, None]
        slopes = {name: g / rest for name, g in found.gradients.items()}
        rise, bend = torch.zeros_like(now), torch.zeros_like(now)
        for name, slope in slopes.items():
            vectors = sites[name].vectors
            way = found.at[name] - vectors.first
            rise += (vectors.second * way).sum(dim=1)
            bend += ((slope - vectors.second) * way).sum(dim=1)
        # (n,): which share of the way to go, all of it where the odds do not bend down; none where
        # they are lower at its end although both slopes say that they rise
        share = torch.where(bend < 0, -rise / bend.clamp_max(-1e-30), 1.0).clamp(0, 1)
        share = torch.where(better | (share < 1), share, 0.0)
        share = torch.where(first, 1.0, share)
        odds = torch.where(share < 1, then + share * rise + share.square() * bend / 2, now)
        start, along = {}, {}
        for name, slope in slopes.items():
            vectors, part = sites[name].vectors, share[:, None]
            start[name] = torch.lerp(vectors.first, found.at[name], part)
            along[name] = torch.lerp(vectors.second, slope, part)
            vectors.first = torch.where(better[:, None], found.at[name], vectors.first)
            vectors.second = torch.where(better[:, None], slope, vectors.second)
        wider = torch.where(now - then > GAIN * self.hoped, 2.0, 1.0)
        reach = torch.where(better, (wider * self.reach).clamp(max=1.0), self.reach / 2)
        # after the first measurement, or one of other rows, nothing can be said of the last step
        self.reach = torch.where(first, self.reach, reach)
        self.best = torch.where(better, found.loss, self.best)
        return start, odds, along


def log_odds(loss: torch.Tensor) -> torch.Tensor:
    """log(p / (1 - p)) (n,) of answers whose loss -log p is ``loss`` (n,).

    They are much nearer to linear in a hidden state than the loss: where p is nearly 0 both have
    the same slope, and where p is nearly 1 that of the loss vanishes.
    """
    loss = loss.clamp_min(TINY)
    return -loss - torch.log(-torch.expm1(-loss))
