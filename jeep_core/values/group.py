"""The facts of a pool that a pass asks the same texts of: all of them, or the first few.

In comments g is the number of facts in the group, V the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from jeep_core.models.lines import Lines


@dataclass(frozen=True)
class Texts:
    """The texts of a fact that are asked: ``rows`` with a target, those of a second context,
    ``chat`` of them, last; then the KL row."""

    rows: int
    chat: int

    def first(self, count: int) -> list[int]:
        """The numbers of the texts with the first ``count`` prefixes, and of the KL row."""
        plain = self.rows - self.chat
        chosen = [*range(min(count, plain))]
        chosen += range(plain, plain + min(count, self.chat))
        return [*chosen, self.rows]

    def at_most(self, count: int) -> Texts:
        """The texts that `first` leaves of each context."""
        chat = min(count, self.chat)
        return Texts(min(count, self.rows - self.chat) + chat, chat)


@dataclass(frozen=True)
class Group:
    """``facts`` (g,) of a pool, None for all of it, with lines of the same ``texts``."""

    facts: torch.Tensor | None
    lines: Lines
    texts: Texts

    def of(self, values: torch.Tensor) -> torch.Tensor:
        """The group's rows (g, …) of a tensor (n, …) of the pool."""
        return values if self.facts is None else values[self.facts]

    def put(self, values: torch.Tensor, mine: torch.Tensor) -> torch.Tensor:
        """The pool's tensor (n, …) with the group's rows ``mine`` (g, …)."""
        return mine if self.facts is None else values.index_copy(0, self.facts, mine)

    def is_kl(self) -> torch.Tensor:
        """Whether each of the m places that are read, (m,), is of a KL row: g are, fact by fact."""
        return self.lines.read_text == self.texts.rows

    def of_targets(
        self, read: torch.Tensor, margin: float | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean negative log-likelihood (g, rows) of the target tokens; whether all are arg-max,
        and lead by the margin, in nats, if there is one.

        ``read`` (m, V): log-probabilities at the places that are read.  The second result is (g,).
        """
        lines, rows = self.lines, self.texts.rows
        asked = ~self.is_kl()
        # (m',) numbers of the places; no copy is made of their distributions
        places, targets = asked.nonzero().flatten(), lines.read_target[asked]
        losses = -read[places, targets]
        # number of the row that each place is of, counted over all facts
        row = lines.read_line[asked] * rows + lines.read_text[asked]
        zeros = losses.new_zeros(len(lines) * rows)
        counts = zeros.index_add(0, row, torch.ones_like(losses))
        leading = read.detach().argmax(dim=1)[places] == targets
        if margin is not None:
            # (m',) each: the most likely token and the next one
            best, second = read.detach()[places].topk(2, dim=1).values.unbind(dim=1)
            leading &= best - second >= margin
        hits = leading.to(losses.dtype)
        written = zeros.index_add(0, row, hits) == counts
        means = zeros.index_add(0, row, losses) / counts
        return means.view(len(lines), -1), written.view(len(lines), -1).all(dim=1)

    def mean(self, by_row: torch.Tensor) -> torch.Tensor:
        """Mean (g,) over each fact's rows of values (g, rows); contexts count the same."""
        if not self.texts.chat:
            return by_row.mean(dim=1)
        split = self.texts.rows - self.texts.chat
        return (by_row[:, :split].mean(dim=1) + by_row[:, split:].mean(dim=1)) / 2


def groups_of(
    lines: Lines, texts: Texts, early: torch.Tensor, count: int | None
) -> Sequence[Group]:
    """The groups of a pool: facts that are ``early`` (n,) are asked after ``count`` prefixes."""
    if count is None or not bool(early.any()):
        return [Group(None, lines, texts)]
    chosen, fewer = texts.first(count), texts.at_most(count)
    if bool(early.all()):
        return [Group(None, lines.only(chosen), fewer)]
    few, all_of_them = early.nonzero().flatten(), (~early).nonzero().flatten()
    return [
        Group(few, lines.keep(few).only(chosen), fewer),
        Group(all_of_them, lines.keep(all_of_them), texts),
    ]
