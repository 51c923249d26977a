"""Tokenized rows as tensors, and the leading tokens that many of them share.

Rows of one prefix begin with the same tokens: a start token and the prefix itself.  Blocks are
causal, so keys and values of these tokens are the same in all of them and are computed once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache

from jeep_core.models.masks import NOWHERE, Attention
from jeep_core.models.views import ModelView, lower_part
from jeep_core.spec.positions import PromptTokens

Past = dict[int, tuple[torch.Tensor, torch.Tensor]]
"""Keys and values (r, heads, s, head_dim) by block."""


@dataclass
class TokenRows:
    """Right-padded rows; blocks are causal, so padding changes nothing to its left.

    ``ids`` (r, t) start ``skip`` (r,) tokens after the row's beginning.  ``subject_last``,
    ``prediction`` and ``lengths`` (r,) count from the beginning.
    """

    ids: torch.Tensor
    subject_last: torch.Tensor
    prediction: torch.Tensor
    lengths: torch.Tensor
    skip: torch.Tensor

    def positions(self, limit: int) -> torch.Tensor:
        """Position of every token (r, t), padding included, below the model's ``limit``."""
        offsets = torch.arange(self.ids.shape[1], device=self.ids.device)
        return (self.skip[:, None] + offsets).clamp_(max=limit - 1)


def stack_rows(
    rows: Sequence[PromptTokens], device: torch.device, skip: Sequence[int] | None = None
) -> TokenRows:
    """Pad rows on the right, ids (r, t); ``skip`` tokens of each are left out at its beginning."""
    skip = skip or [0] * len(rows)
    # ids (r, t): padded with 0 on the right, which nothing to its left can see
    longest = max(len(row.ids) - n for row, n in zip(rows, skip, strict=True))
    ids = [
        [*row.ids[n:], *[0] * (longest + n - len(row.ids))]
        for row, n in zip(rows, skip, strict=True)
    ]

    def column(values: Sequence[int]) -> torch.Tensor:
        return torch.tensor(values, device=device)

    return TokenRows(
        torch.tensor(ids, device=device),
        column([row.subject_last for row in rows]),
        column([row.prediction for row in rows]),
        column([len(row.ids) for row in rows]),
        column(skip),
    )


class GivenPast(DynamicCache):
    """A cache that returns given keys and values before the new ones.

    ``kept`` holds what was returned, if ``keep`` is set.
    """

    def __init__(self, past: Past, keep: bool = False) -> None:
        super().__init__()
        self.past, self.keep, self.kept = past, keep, Past()

    def update(
        self, key_states: Any, value_states: Any, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values (r, heads, s + q, head_dim) of all tokens up to the q new ones."""
        keys, values = self.past[layer_idx]
        # s = 0 where nothing is shared: then the new ones are all
        if keys.shape[2]:
            key_states = torch.cat([keys, key_states], dim=2)
            value_states = torch.cat([values, value_states], dim=2)
        if self.keep:
            self.kept[layer_idx] = key_states, value_states
        return key_states, value_states


@dataclass(frozen=True)
class Leading:
    """Leading tokens of g groups of rows.  ``lengths`` (g,); ``past`` as of g rows, padded to c."""

    lengths: Sequence[int]
    past: Past

    def past_of(self, groups: torch.Tensor, layers: range) -> Past:
        """Keys and values (r, heads, c, head_dim) by layer, before rows in ``groups`` (r,)."""
        found = Past()
        for layer in layers:
            keys, values = self.past[layer]
            chosen = groups.to(keys.device)
            found[layer] = keys[chosen], values[chosen]
        return found

    def positions(self, groups: torch.Tensor) -> torch.Tensor:
        """Their positions (r, c), ``NOWHERE`` where a group has fewer."""
        # (r,), then positions (c,) beside them: (r, c)
        lengths = torch.tensor(self.lengths, device=groups.device)[groups]
        positions = torch.arange(max(self.lengths), device=groups.device)
        return torch.where(positions < lengths[:, None], positions, NOWHERE)


def shared_length(rows: Sequence[PromptTokens]) -> int:
    """How many leading tokens all rows have in common, the subject's last token not among them."""
    starts = [row.ids[: row.subject_last] for row in rows]
    first, last = min(starts), max(starts)  # what these two share, all in between share
    length = 0
    while length < min(len(first), len(last)) and first[length] == last[length]:
        length += 1
    return length


@dataclass(frozen=True)
class LeadingRows:
    """The tokens that the rows of each of g groups share, to be run ahead of them.

    ``lengths`` (g,); ``ids`` and ``positions`` (g, c), padded on the right.
    """

    lengths: Sequence[int]
    ids: torch.Tensor
    positions: torch.Tensor

    @property
    def width(self) -> int:
        """c; 0: the rows share nothing."""
        return self.ids.shape[1]

    def mask(self, attention: Attention, dtype: torch.dtype) -> Any:
        """The mask that a backbone takes for them."""
        return attention.mask(self.positions[:, :0], self.positions, dtype)

    def nothing(self, view: ModelView, last: int) -> Past:
        """Keys and values (g, heads, 0, head_dim) of no tokens, of blocks through ``last``."""
        return no_past(view, len(self.lengths), last)

    def blank(self, view: ModelView, last: int) -> Past:
        """Keys and values (g, heads, c, head_dim), all 0, of blocks through ``last``."""
        return no_past(view, len(self.lengths), last, self.width)

    def real(self) -> torch.Tensor:
        """Whether a place (g, c) is a token, not padding."""
        lengths = torch.tensor(self.lengths, device=self.ids.device)
        return self.positions < lengths[:, None]


def leading_rows(view: ModelView, groups: Sequence[Sequence[PromptTokens]]) -> LeadingRows:
    """The tokens that the rows of each group share; a single row shares none with others."""
    lengths = [shared_length(rows) if len(rows) > 1 else 0 for rows in groups]
    width, device = max(lengths), view.base.device
    ids = [[*rows[0].ids[:n], *[0] * (width - n)] for rows, n in zip(groups, lengths, strict=True)]
    positions = torch.arange(width, device=device).expand(len(groups), width)
    return LeadingRows(
        lengths, torch.tensor(ids, device=device).view(len(groups), width), positions
    )


@torch.no_grad()
def leading_of(view: ModelView, groups: Sequence[Sequence[PromptTokens]], last: int) -> Leading:
    """Run what the rows of each group share through the blocks up to ``last``."""
    rows = leading_rows(view, groups)
    nothing = rows.nothing(view, last)
    if not rows.width:
        return Leading(rows.lengths, nothing)
    cache = GivenPast(nothing, keep=True)
    lower_part(view, last)(
        input_ids=rows.ids,
        attention_mask=rows.mask(Attention.of(view.base), view.base.dtype),
        position_ids=rows.positions,
        cache=cache,
        use_cache=False,
    )
    return Leading(rows.lengths, cache.kept)


def no_past(view: ModelView, rows: int, last: int, tokens: int = 0) -> Past:
    """Keys and values (rows, heads, tokens, head_dim), all 0, of the blocks up to ``last``."""
    config = view.base.model.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    # (g, heads, tokens, head_dim): heads of keys, which may be fewer than those of queries
    empty = torch.zeros(rows, heads, tokens, size, dtype=view.base.dtype)
    there = {device: empty.to(device) for device in view.base.devices}
    devices = (view.base.device_of(layer) for layer in range(last + 1))
    return {layer: (there[device],) * 2 for layer, device in enumerate(devices)}
