"""Decoding a batch of one version that rows join and leave between steps.

Rows are aligned at their ends: all of them write the same column of the key/value buffers, and
a shorter row is padded on its left.  The buffers are allocated once and grow when they must.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from transformers import DynamicCache

from jeep_core.decoding.prompt_scores import ToScore, prompt_scores
from jeep_core.decoding.rows import Row
from jeep_core.decoding.sampling import choose
from jeep_core.executors.threads import with_threads
from jeep_core.models.fused.few_rows import ROWS_ALONE, few_rows, run_alone
from jeep_core.models.masks import Attention
from jeep_core.models.views import ModelView

PREFILL_TOKENS = 2048
"""Prompt tokens, padding included, that join in one step: a bound on how long the others wait."""
COLUMNS = 64
"""Columns by which the buffers grow."""


class KeyValues(DynamicCache):
    """Keys and values of the rows of a batch in buffers (rows, heads, columns, head size).

    Columns from ``first`` to before ``end`` are in use.  ``starts`` holds the first column of
    every row; ``mask`` (rows, 1, 1, columns) hides the columns before it.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        self._buffers: list[list[torch.Tensor]] = []
        self._mask = torch.zeros(0, 1, 1, 0, dtype=dtype, device=device)
        self.starts: list[int] = []
        self.first = self.end = 0

    def update(
        self, key_states: Any, value_states: Any, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write one column (n, heads, 1, head size) of a layer; return those in use, with it.

        They are two views (n, heads, columns, head size) of the buffers.
        """
        # (rows, heads, columns, head size) each, of which the first n rows are in use
        keys, values = self._buffers[layer_idx]
        n, end = len(self.starts), self.end
        keys[:n, :, end] = key_states[:, :, 0]
        values[:n, :, end] = value_states[:, :, 0]
        return keys[:n, :, self.first : end + 1], values[:n, :, self.first : end + 1]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns in use."""
        return self.end - self.first

    def next_column(self) -> torch.Tensor:
        """Make room for one more column; the mask (n, 1, 1, columns) with it."""
        # the mask of all layers is made before the first of them writes its keys
        if self.end == self._mask.shape[3]:
            self._reserve(len(self.starts), self.end - self.first + 1)
        return self._mask[: len(self.starts), :, :, self.first : self.end + 1]

    def advance(self) -> None:
        """The column that was written is in use."""
        self.end += 1

    def join(self, new: DynamicCache, lengths: Sequence[int]) -> None:
        """Add left-padded rows of these lengths (in tokens) after those that are there.

        ``new`` holds keys and values (k, heads, width, head size) by layer.
        """
        layers: Any = new.layers
        width = layers[0].keys.shape[2]
        if not self._buffers:
            # a family's heads and head size are known from its first keys only
            self._buffers = [
                [t.new_zeros(0, t.shape[1], 0, t.shape[3]) for t in (layer.keys, layer.values)]
                for layer in layers
            ]
        n = len(self.starts)
        if not n:
            self.first = self.end = 0
        self._reserve(n + len(lengths), max(self.end - self.first, width) + 1)
        # all rows end in one column: a longer newcomer pushes the others to the right
        if self.end < width:
            self._shift(width - self.end)
        # padding of the new rows comes along, and is hidden like that of the others
        rows, columns = slice(n, n + len(lengths)), slice(self.end - width, self.end)
        for buffers, layer in zip(self._buffers, layers, strict=True):
            for buffer, tensor in zip(buffers, (layer.keys, layer.values), strict=True):
                buffer[rows, :, columns] = tensor
        self.starts += [self.end - length for length in lengths]
        self._look(range(n, len(self.starts)))

    def keep(self, index: Sequence[int]) -> None:
        """Drop all rows but these; row ``index[i]`` becomes row i.

        Rows stay or move down from beyond ``len(index)``, so none is overwritten before it is read.
        """
        for to, origin in enumerate(index):
            if to != origin:
                for buffer in (b for buffers in self._buffers for b in buffers):
                    # (heads, columns, head size) of one row
                    used = slice(self.starts[origin], self.end)
                    buffer[to, :, used] = buffer[origin, :, used]
        moved = [to for to, origin in enumerate(index) if to != origin]
        self.starts = [self.starts[i] for i in index]
        self._look(moved)

    def clear(self, rows: Collection[int]) -> None:
        """Zero the buffers of these rows: a NaN would reach later rows even through a mask."""
        for buffer in (b for buffers in self._buffers for b in buffers):
            for row in rows:
                buffer[row] = 0

    def _look(self, changed: Collection[int]) -> None:
        """Bring the mask of changed rows and the first column up to date."""
        hidden = torch.finfo(self._mask.dtype).min
        for row in changed:
            self._mask[row, :, :, : self.starts[row]] = hidden
            self._mask[row, :, :, self.starts[row] :] = 0
        self.first = min(self.starts, default=self.end)

    def _shift(self, by: int) -> None:
        """Move what is in use to the right (by > 0) or to the left."""
        n, used = len(self.starts), slice(self.first, self.end)
        there = slice(self.first + by, self.end + by)
        if n:
            for buffer in (b for buffers in self._buffers for b in buffers):
                buffer[:n, :, there] = buffer[:n, :, used].clone()  # they overlap
        self.starts = [start + by for start in self.starts]
        self.first, self.end = self.first + by, self.end + by
        self._look(range(n))

    def _reserve(self, rows: int, columns: int) -> None:
        """Make room for so many rows, and so many columns from the first one in use on."""
        had_rows, had_columns = self._mask.shape[0], self._mask.shape[3]
        # columns count from ``first`` on: those left of it have no row any more
        if rows <= had_rows and self.first + columns <= had_columns:
            return
        n, by = len(self.starts), self.first
        if rows > had_rows or columns > had_columns:
            if rows > had_rows:  # to the next power of two: rows come one by one
                had_rows = 1 << (rows - 1).bit_length()
            if columns > had_columns:
                had_columns = columns + COLUMNS  # the next steps need no growth
            used = slice(self.first, self.end)
            for buffers in self._buffers:
                for i, old in enumerate(buffers):
                    buffers[i] = old.new_zeros(had_rows, old.shape[1], had_columns, old.shape[3])
                    buffers[i][:n, :, : self.end - by] = old[:n, :, used]
            self._mask = self._mask.new_zeros(had_rows, 1, 1, had_columns)
            self.starts = [start - by for start in self.starts]
            self.first, self.end = 0, self.end - by
            self._look(range(n))
        # large enough but for the columns left of ``first``: move what is in use there
        elif by:
            self._shift(-by)


class Batch:
    """The rows of one version that are decoded together.

    ``add`` puts rows into the waiting line; every ``step`` gives each running row a token and
    lets waiting ones join, at most ``max_rows`` in all.  A row that has tokens already
    continues after them.  Not safe to use from several threads.
    """

    def __init__(
        self, view: ModelView, max_rows: int = 64, prefill_tokens: int = PREFILL_TOKENS
    ) -> None:
        self.view = view
        self._max_rows, self._prefill_tokens = max_rows, prefill_tokens
        self._backbone = view.base.family.backbone_of(view.model)
        self._small = run_alone(view.base.family.layers_of(view.model)[0])
        self._attention = Attention.of(view.base)
        self._device = view.base.device
        self._waiting: deque[Row] = deque()
        self._running: list[Row] = []
        self._cache = KeyValues(self._device, view.base.dtype)
        self._ids = torch.zeros(0, 1, dtype=torch.long, device=self._device)
        self._positions = torch.zeros(0, 1, dtype=torch.long, device=self._device)

    def __len__(self) -> int:
        return len(self._waiting) + len(self._running)

    def add(self, rows: Sequence[Row]) -> None:
        """Let rows join at the next step."""
        self._waiting.extend(row for row in rows if not row.finished)

    def go_on(self, rows: Sequence[Row], past: DynamicCache) -> None:
        """Let rows go on that were read elsewhere, up to before the last token of each.

        ``past`` holds keys and values (k, heads, width, head size) by layer, each row's at the
        end.  There must be room for them.
        """
        lengths = [len(row.seen) - 1 for row in rows]
        last = [row.seen[-1:] for row in rows]
        self._cache.join(past, lengths)
        self._ids = torch.cat([self._ids, torch.tensor(last, device=self._device)])
        following = torch.tensor(lengths, device=self._device)[:, None]
        self._positions = torch.cat([self._positions, following])
        self._running += rows

    def drop(self, rows: Collection[Row]) -> None:
        """Take rows out, waiting or running; their results stay as they are."""
        self._waiting = deque(row for row in self._waiting if row not in rows)
        self._leave([i for i, row in enumerate(self._running) if row in rows])

    @torch.no_grad()
    def step(self) -> tuple[list[Row], list[Row]]:
        """One token for every running row; then waiting rows join and get their first one.

        Returns the rows that got a token and those that have finished; some of these may have
        an ``error``: their logits were not finite.
        """
        got: list[Row] = []
        finished: list[Row] = []
        if self._running:
            alone = self._small and len(self._running) <= ROWS_ALONE
            with few_rows():
                with with_threads(1) if alone else nullcontext():
                    hidden = self._forward()
                self._take(self._running, hidden, got, finished)
            self._leave([i for i, row in enumerate(self._running) if row.finished])
        for rows in self._joining():
            hidden = self._prefill(rows)
            self._score(rows, hidden)
            n = len(self._running)
            self._running += rows
            self._take(rows, hidden[:, -1], got, finished)
            self._leave([n + i for i, row in enumerate(rows) if row.finished])
        return got, finished

    def _forward(self) -> torch.Tensor:
        """The last hidden states (n, d) of the running rows, after one more token of each."""
        mask = self._cache.next_column()
        hidden: torch.Tensor = self._backbone(
            input_ids=self._ids,
            attention_mask=self._attention.of_next_token(mask),
            position_ids=self._positions,
            cache=self._cache,
            use_cache=True,
        ).last_hidden_state
        self._cache.advance()
        # (n, 1): the position of the token to come
        self._positions += 1
        return hidden[:, -1]

    def _joining(self) -> list[list[Row]]:
        """Rows that join now, in groups of similar length."""
        chosen: list[tuple[int, Row]] = []
        groups: list[list[Row]] = []
        while self._waiting and len(self._running) + len(chosen) < self._max_rows:
            chosen.append((len(self._waiting[0].seen), self._waiting[0]))
            more, tokens = _by_length(chosen)
            if groups and tokens > self._prefill_tokens:
                break
            groups = more
            self._waiting.popleft()
        return groups

    def _prefill(self, rows: Sequence[Row]) -> torch.Tensor:
        """Run prompts, padded on the left, and cache their keys and values.

        Returns their last hidden states (k, width, d).
        """
        device, prompts = self._device, [row.seen for row in rows]
        lengths = [len(prompt) for prompt in prompts]
        width = max(lengths)
        # (k, width), padded on the left
        ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
        pads = torch.tensor([width - length for length in lengths], device=device)[:, None]
        # (k, width) positions, negative on the padding, which the mask therefore hides
        positions = torch.arange(width, device=device) - pads
        cache = DynamicCache()
        hidden: torch.Tensor = self._backbone(
            input_ids=ids.to(device),
            attention_mask=self._attention.mask(positions[:, :0], positions, self.view.base.dtype),
            position_ids=positions.clamp_min(0),
            cache=cache,
            use_cache=True,
        ).last_hidden_state
        self._cache.join(cache, lengths)
        # (k, 1): the position of a prompt's first new token is its length
        following = torch.tensor(lengths, device=device)[:, None]
        self._positions = torch.cat([self._positions, following])
        self._ids = torch.cat([self._ids, torch.zeros_like(following)])
        return hidden

    def _score(self, rows: Sequence[Row], hidden: torch.Tensor) -> None:
        """Score the prompts of rows that ask for it from their states ``hidden`` (k, width, d)."""
        asking = [(i, row) for i, row in enumerate(rows) if row.unscored]
        wanted = [
            ToScore(i, hidden.shape[1] - len(row.seen), row.ids, row.sampling.prompt_top or 0)
            for i, row in asking
        ]
        found = prompt_scores(self.view, hidden, wanted)
        for (_, row), scores in zip(asking, found, strict=True):
            row.take_scores(scores)

    def _take(
        self, rows: Sequence[Row], hidden: torch.Tensor, got: list[Row], finished: list[Row]
    ) -> None:
        """Choose a token for each of the last k running rows ``rows`` from ``hidden`` (k, d)."""
        logits = self.view.base.family.logits_of(self.view.model, hidden)
        choices = choose(logits, [row.sampling for row in rows], [row.random for row in rows])
        ids = [0 if choice is None else choice.id for choice in choices]
        self._ids[-len(rows) :, 0] = torch.tensor(ids, device=self._device)
        for row, choice in zip(rows, choices, strict=True):
            if row.finished:  # its prompt alone was to be scored, or could not be
                pass
            elif choice is None:
                row.fail()
            elif row.add(choice):
                got.append(row)
            if row.finished:
                finished.append(row)

    def _leave(self, gone: Collection[int]) -> None:
        """Remove running rows of these numbers; the last ones take their places."""
        if not gone:
            return
        left = len(self._running) - len(gone)
        # rows beyond ``left`` that stay, one for each place that falls free below it
        movers = iter(i for i in range(left, len(self._running)) if i not in gone)
        index = [next(movers) if i in gone else i for i in range(left)]
        self._cache.clear([i for i in gone if self._running[i].error is not None])
        self._running = [self._running[i] for i in index]
        self._cache.keep(index)
        self._ids, self._positions = self._ids[index], self._positions[index]


def _by_length(rows: Sequence[tuple[int, Row]]) -> tuple[list[list[Row]], int]:
    """Rows, given with their lengths, in groups of similar length; their tokens with padding."""
    groups: list[list[tuple[int, Row]]] = []
    for length, row in sorted(rows, key=lambda one: one[0]):
        # a group is padded to its longest row: at most twice the shortest, and 8
        if not groups or length > 2 * groups[-1][0][0] + 8:
            groups.append([])
        groups[-1].append((length, row))
    tokens = sum(len(group) * group[-1][0] for group in groups)
    return [[row for _, row in group] for group in groups], tokens
