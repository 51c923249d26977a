"""The texts of its facts that a pass asks: all of them, or those after the first few prefixes.

In comments n is the number of facts, V the vocabulary.
"""

from __future__ import annotations

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
class Asked:
    """The lines of n facts, of the same ``texts`` each, and how their results are read."""

    lines: Lines
    texts: Texts

    def is_kl(self) -> torch.Tensor:
        """Whether each of the m places that are read, (m,), is of a KL row: n are, fact by fact."""
        return self.lines.read_text == self.texts.rows

    def of_targets(
        self, read: torch.Tensor, margin: float | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean negative log-likelihood (n, rows) of the target tokens; whether all are arg-max,
        and lead by the margin, in nats, if there is one.

        ``read`` (m, V): log-probabilities at the places that are read.  The second result is (n,).
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
        """Mean (n,) over each fact's rows of values (n, rows); contexts count the same."""
        if not self.texts.chat:
            return by_row.mean(dim=1)
        split = self.texts.rows - self.texts.chat
        return (by_row[:, :split].mean(dim=1) + by_row[:, split:].mean(dim=1)) / 2
