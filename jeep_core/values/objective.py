"""The inputs and the results of value optimisation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import torch

from jeep_core.models.lines import last_read
from jeep_core.spec.hparams import Region
from jeep_core.spec.positions import PromptTokens


@dataclass(frozen=True)
class FactTokens:
    """The rows of one fact: one per prefix, the empty one first, and the KL row.

    ``chat``: rows of a second context in which the fact is asked as well, with prefixes of its
    own, the empty one first.  All facts of a batch have as many rows of either.
    """

    rows: Sequence[PromptTokens]
    # a prompt that does not ask for the fact: what the model says of the subject there is to stay
    kl: PromptTokens
    chat: Sequence[PromptTokens] = ()

    @property
    def contexts(self) -> list[Sequence[PromptTokens]]:
        """The rows of each context: one, or two."""
        return [self.rows, self.chat] if self.chat else [self.rows]

    @property
    def all_rows(self) -> list[PromptTokens]:
        """The rows of all contexts."""
        return [*self.rows, *self.chat]

    @property
    def line(self) -> list[PromptTokens]:
        """All rows, the KL row last: they are run beside one another."""
        return [*self.all_rows, self.kl]

    @property
    def shape(self) -> tuple[int, int]:
        """Tokens that a step runs, and tokens in all: similar facts share a batch."""
        # lines are padded to the longest; what is left of subject-last is run only once
        stepped = sum(last_read(row) + 1 - row.subject_last for row in self.line)
        return stepped, sum(len(row.ids) for row in self.line)


WRITTEN_KL = 0.01
"""Largest weighted KL, in nats, at which a fact counts as written."""

AIM = 20
"""How far beyond the odds at which a fact stops a step aims.

The last step lands there or short of it.  With 2 a fact stops just at its goal, and rephrasings on
the bundled models lose up to eight points; 20 and 200 are alike (docs/lab-notes.md).
"""


@dataclass(frozen=True)
class Objective:
    """The loss to minimise, and when a fact is done.

    The loss of a fact is the negative log-likelihood per target token, as a mean over its rows,
    plus ``kl_weight`` · KL(edited ‖ unedited) at its KL row, plus β‖δ‖/‖h‖² at every site.

    A fact stops when its mean target probability reaches ``stop_probability``, or its whole
    loss falls below ``stop_loss``, whichever is given; with ``written_weight`` also when every
    target token is the arg-max and the weighted KL is at most ``WRITTEN_KL``, and while they all
    are, the likelihood counts that much only.  ``optimizer``: Adam, or Newton's steps for the
    log-odds of the answer along the gradient, under which a fact also stops when its loss does
    not fall any more.  With ``margin`` no probability or loss ends a fact before every target
    token leads all others by that many nats in every row.

    ``low_site``: where δ' is added at the subject's last token: to the output of the low
    region's last block, or inside it to the output of the MLP's projection, alone or beside a
    third vector at the attention's projection.  ``train``: which of δ' and δ*
    are optimised; the other stays zero.
    """

    low: Region
    high: Region | None
    n_steps: int
    learning_rate: float
    kl_weight: float
    # each editor gives the one of its paper; with neither all steps are made
    stop_probability: float | None = None
    stop_loss: float | None = None
    high_target: Literal["at_optimum", "literal"] = "at_optimum"
    compute_dtype: Literal["model", "bfloat16"] = "model"
    # at a projection δ' still passes the norm that some families have after it
    low_site: Literal["block", "mlp", "mlp_and_attention"] = "block"
    train: Literal["both", "low", "high"] = "both"
    written_weight: float | None = None
    optimizer: Literal["adam", "newton"] = "adam"
    # nats; a version that is quantised afterwards needs answers that lead by more than a little
    margin: float | None = None
    # prefixes of each context that a fact is asked after until it would stop; None: all of them
    early_prefixes: int | None = None
    # every fact is optimised by itself, so that its values have the same bits beside any others
    exact: bool = False

    @property
    def goal(self) -> float | None:
        """Log-odds that ``newton`` aims at: ``AIM`` times the odds at which a fact stops."""
        if self.optimizer == "adam":
            return None
        stop = self.stop_probability
        if stop is None:
            stop = math.exp(-self.stop_loss) if self.stop_loss is not None else 0.9
        stop = min(stop, 0.999)
        # an answer that leads each other one by the margin has at least about such log-odds
        odds = max(math.log(stop / (1 - stop)), self.margin or 0.0)
        return odds + math.log(AIM)


@dataclass
class Values:
    """Targets of the closed-form update and how they were reached, in the order of the facts.

    ``low``, ``high``: (m, d) states to reach at their sites.  ``delta_low``, ``delta_high``:
    (m, d).  ``chat_low``, ``chat_high``: (m, d) states to reach in a second context, where the
    same vectors are added.  ``attention``: (m, d) output to reach at the attention's projection,
    if optimised.
    ``steps``, ``losses``, ``probabilities``: (m,), of each fact's last forward pass.  All are
    float32, ``steps`` int64, on the model's device.
    ``left_out``, ``changed``: (m,) bool, set by norm anchoring: facts that keep the value that they
    had, and those whose vector is another than the one of the last forward pass, so that their
    ``losses`` and ``probabilities`` are not those of what is written.
    ``peak_bytes``: most memory held at once, measured on CUDA, else counted from what the
    backward pass keeps.  ``trace``: per pass the facts in it and their losses.
    """

    low: torch.Tensor
    high: torch.Tensor | None
    delta_low: torch.Tensor
    delta_high: torch.Tensor | None
    steps: torch.Tensor
    losses: torch.Tensor
    probabilities: torch.Tensor
    attention: torch.Tensor | None = None
    chat_low: torch.Tensor | None = None
    chat_high: torch.Tensor | None = None
    left_out: torch.Tensor | None = None
    changed: torch.Tensor | None = None
    peak_bytes: int = 0
    trace: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list, repr=False)

    @classmethod
    def empty(
        cls, facts: int, size: int, sites: Sequence[str], chat: bool, device: torch.device
    ) -> Values:
        """Zeros for m ``facts`` of d = ``size``: for these sites, with a second context or not."""

        def zeros(*shape: int) -> torch.Tensor:
            return torch.zeros(*shape, device=device)

        def optional(wanted: bool) -> torch.Tensor | None:
            return zeros(facts, size) if wanted else None

        return cls(
            low=zeros(facts, size),
            high=optional("high" in sites),
            delta_low=zeros(facts, size),
            delta_high=optional("high" in sites),
            steps=zeros(facts).long(),
            losses=zeros(facts),
            probabilities=zeros(facts),
            attention=optional("attention" in sites),
            chat_low=optional(chat),
            chat_high=optional(chat and "high" in sites),
        )

    def probability(self, fact: int) -> float | None:
        """The probability that a fact's vector gives its new answer.

        None where norm anchoring has put another vector in place of the one that was measured.
        """
        if self.changed is not None and bool(self.changed[fact]):
            return None
        return float(self.probabilities[fact])

    def select(self, index: Sequence[int]) -> Values:
        """The values of the k facts of ``index``: (k, d) vectors and (k,) figures."""
        # vectors (m, d) and figures (m,) are cut along m; entries of ``trace`` are not by fact
        chosen = list(index)
        parts: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        cut = {n: t[chosen] for n, t in parts.items() if isinstance(t, torch.Tensor)}
        return Values(**{**parts, **cut, "trace": []})
