"""Lines: the texts of one fact beside one another in one row, so that none is padded to another.

A fact is asked after several prefixes, in a chat as well, and has a prompt that is to stay as it
is: k texts of unlike lengths.  In a line, their tokens follow one another; masks and positions keep
the texts apart.  Only lines are padded, to the longest one.

In comments n is the number of lines, k that of their texts, d the hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from jeep_core.models.masks import NOWHERE, Attention
from jeep_core.models.token_rows import Leading, Past
from jeep_core.spec.positions import PromptTokens

NO_TARGET = -100
NO_TEXT = -1
"""The number of the text that padding is of."""


@dataclass(frozen=True)
class TokenLines:
    """Tokens of n lines before any block has run.

    ``ids``, ``texts``, ``positions`` (n, t): token, number of its text, position in its text; a
    text begins after its leading tokens.  ``starts`` (n, t): whether a token is at or right of its
    text's subject-last.  ``targets`` (n, t): the id to be predicted at each place, or -100.
    ``first`` and ``prediction`` (n, t) mark each text's subject-last and, in texts with a target,
    the prompt's last token.
    """

    ids: torch.Tensor
    texts: torch.Tensor
    positions: torch.Tensor
    starts: torch.Tensor
    targets: torch.Tensor
    first: torch.Tensor
    prediction: torch.Tensor


def token_lines(
    facts: Sequence[Sequence[PromptTokens]], skip: Sequence[int], limit: int, device: torch.device
) -> TokenLines:
    """Lines of facts with k texts each, ``skip`` (k,) leading tokens of which are left out.

    Texts end at the last place that is read: their last target is no input.  ``limit``: the
    model's number of positions.
    """
    columns: list[list[tuple[int, ...]]] = []
    for texts in facts:
        line: list[tuple[int, ...]] = []
        for j, (text, gone) in enumerate(zip(texts, skip, strict=True)):
            for at in range(gone, last_read(text) + 1):
                asked = text.n_target > 0 and at >= text.prediction
                target = text.ids[at + 1] if asked else NO_TARGET
                line.append(
                    (
                        text.ids[at],
                        j,
                        min(at, limit - 1),
                        int(at >= text.subject_last),
                        target,
                        int(at == text.subject_last),
                        int(text.n_target > 0 and at == text.prediction),
                    )
                )
        columns.append(line)
    width = max(map(len, columns))
    padding = (0, NO_TEXT, 0, 0, NO_TARGET, 0, 0)
    table = torch.tensor(
        [[*line, *[padding] * (width - len(line))] for line in columns], device=device
    )
    ids, texts_of, positions, starts, targets, first, prediction = table.unbind(dim=2)
    return TokenLines(
        ids, texts_of, positions, starts.bool(), targets, first.bool(), prediction.bool()
    )


def last_read(text: PromptTokens) -> int:
    """The last place at which the head is read: subject-last in a text without targets."""
    return text.prediction + text.n_target - 1 if text.n_target else text.subject_last


@dataclass(frozen=True)
class LinePast:
    """Keys and values of what is left of a line's tokens, of all its texts beside one another.

    ``states``: (n, heads, s, head_dim) by block; ``texts`` and ``positions`` (n, s).
    """

    states: Past
    texts: torch.Tensor
    positions: torch.Tensor


def leading_past(leading: Leading, lines: int, layers: range, device: torch.device) -> LinePast:
    """The leading tokens of k texts, the same before each of n lines, unpadded."""
    # text and place (c,) of all leading tokens, text by text
    pairs = [(j, at) for j, length in enumerate(leading.lengths) for at in range(length)]
    text, place = torch.tensor(pairs, dtype=torch.long, device=device).view(-1, 2).unbind(dim=1)

    def beside(states: torch.Tensor) -> torch.Tensor:
        # (k, heads, c', head_dim) to (c, heads, head_dim) to (n, heads, c, head_dim)
        chosen = states[text.to(states.device), :, place.to(states.device)].transpose(0, 1)
        return chosen[None].expand(lines, *chosen.shape)

    past = {i: (beside(leading.past[i][0]), beside(leading.past[i][1])) for i in layers}
    return LinePast(past, text.expand(lines, -1), place.expand(lines, -1))


@dataclass
class Lines:
    """Lines from each text's subject-last on, as the blocks above it take them.

    ``segment`` (n, q, d): hidden states that enter the first of these blocks.  ``texts``,
    ``positions``, ``targets`` (n, q), ``first`` and ``prediction`` (n, q) as in `TokenLines`.
    """

    segment: torch.Tensor
    texts: torch.Tensor
    positions: torch.Tensor
    targets: torch.Tensor
    first: torch.Tensor
    prediction: torch.Tensor
    past: LinePast
    attention: Attention

    def __post_init__(self) -> None:
        past, own = self.past, self.positions
        self.mask = self.attention.mask(
            past.positions, own, self.segment.dtype, (past.texts, self.texts)
        )
        # m places (line, place) at which the head is read, line by line: where a target is
        # predicted, and at subject-last of a text without one
        silent = ~self._has_target()
        self.read_line, self.read_place = ((self.targets >= 0) | (self.first & silent)).nonzero(
            as_tuple=True
        )
        self.read_text = self.texts[self.read_line, self.read_place]
        self.read_target = self.targets[self.read_line, self.read_place]

    def _has_target(self) -> torch.Tensor:
        """Whether the text of each token (n, q) has a target."""
        k = int(self.texts.max()) + 1
        counts = torch.zeros(len(self), k + 1, device=self.texts.device)
        # padding is text -1: it counts for the column after those of the texts
        column = torch.where(self.texts < 0, k, self.texts)
        counts.scatter_add_(1, column, (self.targets >= 0).to(counts.dtype))
        return counts.gather(1, column) > 0

    def __len__(self) -> int:
        return len(self.segment)

    @property
    def tokens(self) -> int:
        """Tokens that a pass runs, padding included."""
        return self.texts.numel()

    def at_first(self, states: torch.Tensor) -> torch.Tensor:
        """Of states (n, q, d), on any device, those at subject-last, (n, k, d)."""
        return self._at(self.first, states)

    def at_prediction(self, states: torch.Tensor) -> torch.Tensor:
        """Likewise those at the prompt's end, (n, k', d) of k' texts with targets."""
        return self._at(self.prediction, states)

    def _at(self, places: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        found = states[places.to(states.device)].view(len(self), -1, states.shape[2])
        return found.to(places.device)

    def keep(self, index: torch.Tensor) -> Lines:
        """The lines ``index`` (m,), no wider than they need to be."""
        texts, positions = self.texts[index], self.past.positions[index]
        q = int((texts >= 0).sum(dim=1).max())
        # columns of the past in which a line that is left has a token
        used = (positions != NOWHERE).any(dim=0).nonzero().flatten()
        whole = len(used) == positions.shape[1]

        def cut(states: torch.Tensor) -> torch.Tensor:
            # (n, heads, s, head_dim) to (m, heads, s', head_dim)
            chosen = states[index.to(states.device)]
            return chosen if whole else chosen[:, :, used.to(states.device)]

        past = {layer: (cut(k), cut(v)) for layer, (k, v) in self.past.states.items()}
        return Lines(
            self.segment[index, :q],
            texts[:, :q],
            self.positions[index, :q],
            self.targets[index, :q],
            self.first[index, :q],
            self.prediction[index, :q],
            LinePast(past, self.past.texts[index][:, used], positions[:, used]),
            self.attention,
        )

    def only(self, chosen: Sequence[int]) -> Lines:
        """The lines with these of their texts alone, numbered 0, 1, … in the order given."""
        k = int(self.texts.max()) + 1
        # (k + 1,): new numbers of the texts; padding, text -1, is the last entry
        number = torch.full((k + 1,), NO_TEXT, device=self.texts.device)
        number[list(chosen)] = torch.arange(len(chosen), device=self.texts.device)
        texts, past_texts = number[self.texts], number[self.past.texts]
        columns, real = chosen_columns(texts != NO_TEXT)
        past_columns, past_real = chosen_columns(past_texts != NO_TEXT)

        def cut(values: torch.Tensor, padding: int | bool) -> torch.Tensor:
            return torch.where(real, values.gather(1, columns), padding)

        def cut_past(states: torch.Tensor) -> torch.Tensor:
            # (n, heads, s, head_dim) to (n, heads, s', head_dim)
            _, heads, _, size = states.shape
            columns = past_columns.to(states.device)
            return states.gather(2, columns[:, None, :, None].expand(-1, heads, -1, size))

        return Lines(
            states_at(self.segment, columns),
            cut(texts, NO_TEXT),
            cut(self.positions, 0),
            cut(self.targets, NO_TARGET),
            cut(self.first, False),
            cut(self.prediction, False),
            LinePast(
                {layer: (cut_past(k), cut_past(v)) for layer, (k, v) in self.past.states.items()},
                torch.where(past_real, past_texts.gather(1, past_columns), NO_TEXT),
                torch.where(past_real, self.past.positions.gather(1, past_columns), NOWHERE),
            ),
            self.attention,
        )

    def join(self, other: Lines) -> Lines:
        """These lines, then ``other``'s, padded to the same widths."""
        q = max(self.segment.shape[1], other.segment.shape[1])
        s = max(self.past.positions.shape[1], other.past.positions.shape[1])

        def both(a: torch.Tensor, b: torch.Tensor, dim: int, size: int, value: int) -> torch.Tensor:
            return torch.cat([_padded(t, dim, size, value) for t in (a, b)])

        mine, theirs = self.past, other.past
        past = {
            layer: (
                both(k, theirs.states[layer][0], 2, s, 0),
                both(v, theirs.states[layer][1], 2, s, 0),
            )
            for layer, (k, v) in mine.states.items()
        }
        return Lines(
            both(self.segment, other.segment, 1, q, 0),
            both(self.texts, other.texts, 1, q, NO_TEXT),
            both(self.positions, other.positions, 1, q, 0),
            both(self.targets, other.targets, 1, q, NO_TARGET),
            both(self.first, other.first, 1, q, False),
            both(self.prediction, other.prediction, 1, q, False),
            LinePast(
                past,
                both(mine.texts, theirs.texts, 1, s, NO_TEXT),
                both(mine.positions, theirs.positions, 1, s, NOWHERE),
            ),
            self.attention,
        )


def _padded(tensor: torch.Tensor, dim: int, size: int, value: int) -> torch.Tensor:
    missing = size - tensor.shape[dim]
    if not missing:
        return tensor
    shape = list(tensor.shape)
    shape[dim] = missing
    return torch.cat([tensor, tensor.new_full(shape, value)], dim=dim)


def chosen_columns(marked: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Columns (n, w) of the marked places of ``marked`` (n, t) in order, and which are real.

    w is the most that a line has; further columns of a line repeat some place and are not real.
    """
    w = int(marked.sum(dim=1).max())
    # a stable sort by "not marked" puts the marked ones first, in their order
    order = (~marked).to(torch.uint8).argsort(dim=1, stable=True)[:, :w]
    return order, marked.gather(1, order)


def states_at(states: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Of states (n, t, d) those in ``columns`` (n, w): (n, w, d)."""
    return states.gather(1, columns[:, :, None].expand(-1, -1, states.shape[2]))
