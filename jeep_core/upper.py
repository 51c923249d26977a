"""The part of a model that a value vector can still change, run over batches of rows.

``UpperStack`` holds the blocks above layer ``low``.  A row is entered at its subject's last
token with the hidden state of block ``low``; keys and values to its left are given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch.nn import functional as F
from transformers import DynamicCache

from jeep_core.positions import PromptTokens
from jeep_core.views import ModelView, block_output, hooked, lower_part, upper_part, with_hidden


@dataclass
class TokenRows:
    """Right-padded rows: ids (r, t), subject-last and prediction positions (r,), targets (r,)."""

    ids: torch.Tensor
    subject_last: torch.Tensor
    prediction: torch.Tensor
    lengths: torch.Tensor
    n_target: torch.Tensor


def stack_rows(rows: Sequence[PromptTokens], device: torch.device) -> TokenRows:
    """Pad rows on the right; blocks are causal, so padding changes nothing to its left."""
    longest = max(len(row.ids) for row in rows)
    ids = torch.tensor([[*row.ids, *[0] * (longest - len(row.ids))] for row in rows])

    def column(name: str) -> torch.Tensor:
        return torch.tensor([getattr(row, name) for row in rows], device=device)

    lengths = torch.tensor([len(row.ids) for row in rows], device=device)
    return TokenRows(
        ids.to(device), column("subject_last"), column("prediction"), lengths, column("n_target")
    )


@dataclass
class Rows:
    """Rows from subject-last on.

    ``segment`` (r, q, d): hidden states at the output of block ``low``.  ``mask`` (r, 1, q, s+q)
    additive, ``position_ids`` (r, q).  ``past``: per upper block keys and values of the s tokens
    to the left, (r, heads, s, head_dim) each.  ``prediction`` (r,) is relative to the segment.
    ``targets`` (r, q): the id to be predicted at each place, -100 elsewhere.
    ``start_state``, ``high_state`` (r, d): unedited states at subject-last (block ``low``) and
    at the prediction position (block ``high``).
    """

    segment: torch.Tensor
    mask: torch.Tensor
    position_ids: torch.Tensor
    past: dict[int, tuple[torch.Tensor, torch.Tensor]]
    prediction: torch.Tensor
    targets: torch.Tensor
    start_state: torch.Tensor
    high_state: torch.Tensor

    def keep(self, index: torch.Tensor) -> Rows:
        """The rows of these numbers."""
        cut = {f.name: getattr(self, f.name)[index] for f in fields(self) if f.name != "past"}
        past = {layer: (k[index], v[index]) for layer, (k, v) in self.past.items()}
        return replace(self, **cut, past=past)


class _GivenPast(DynamicCache):
    """A cache that answers with given keys and values in front of the new ones, keeping none."""

    def __init__(self, past: dict[int, tuple[torch.Tensor, torch.Tensor]]) -> None:
        super().__init__()
        self.past = past

    def update(
        self, key_states: Any, value_states: Any, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = self.past[layer_idx]
        return torch.cat([keys, key_states], dim=2), torch.cat([values, value_states], dim=2)


class UpperStack:
    """The blocks above ``low`` of a view, with a place to add a vector at block ``high``."""

    def __init__(self, view: ModelView, low: int, high: int | None) -> None:
        self.view, self.low, self.high = view, low, high
        self.backbone = upper_part(view, low + 1)
        self.layers = view.base.family.layers_of(view.model)
        self.head = view.model.get_output_embeddings()

    def capture(self, rows: TokenRows) -> Rows:
        """Run the rows once, unedited, and keep what no later step changes."""
        taken: dict[int, torch.Tensor] = {}

        def taker(layer: int) -> Any:
            def hook(module: Any, args: Any, output: Any) -> None:
                taken[layer] = block_output(output)

            return self.layers[layer].register_forward_hook(hook)

        cache = DynamicCache()
        sites = {self.low, *([] if self.high is None else [self.high])}
        with hooked(*map(taker, sites)):
            family = self.view.base.family
            family.backbone_of(self.view.model)(
                input_ids=rows.ids, past_key_values=cache, use_cache=True
            )
        return self._rows(rows, taken, cache)

    def _rows(self, rows: TokenRows, taken: dict[int, torch.Tensor], cache: DynamicCache) -> Rows:
        device, start = rows.ids.device, rows.subject_last
        r = torch.arange(len(start), device=device)
        s, q = int(start.max()), int((rows.lengths - start).max())
        offsets = torch.arange(q, device=device)
        places = start[:, None] + offsets
        inside = places.clamp(max=rows.ids.shape[1] - 1)
        low = taken[self.low]
        past_ok = torch.arange(s, device=device)[None, None, :] < start[:, None, None]
        own_ok = offsets[None, None, :] <= offsets[None, :, None]
        allowed = torch.cat([past_ok.expand(len(r), q, s), own_ok.expand(len(r), q, q)], dim=2)[
            :, None
        ]
        mask = torch.zeros(allowed.shape, dtype=low.dtype, device=device)
        mask.masked_fill_(~allowed, torch.finfo(low.dtype).min)
        following = rows.ids[r[:, None], (inside + 1).clamp(max=rows.ids.shape[1] - 1)]
        is_target = (places >= rows.prediction[:, None]) & (
            places < (rows.prediction + rows.n_target)[:, None]
        )
        upper = range(self.low + 1, len(self.layers))
        kept: Any = cache.layers
        past = {i: (kept[i].keys[:, :, :s], kept[i].values[:, :, :s]) for i in upper}
        high = taken[self.low if self.high is None else self.high]
        return Rows(
            segment=low[r[:, None], inside],
            mask=mask,
            position_ids=inside,
            past=past,
            prediction=rows.prediction - start,
            targets=following.masked_fill(~is_target, -100),
            start_state=low[r, start],
            high_state=high[r, rows.prediction],
        )

    def forward(
        self, rows: Rows, low: torch.Tensor | None, high: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Hidden states (r, q, d) behind the final norm with the deltas (r, d) added.

        Also the state (r, d) at block ``high`` and the prediction position before ``high`` is
        added, or None if there is no high site.
        """
        x = rows.segment
        if low is not None:
            first = x[:, :1] + low[:, None].to(x.dtype)
            x = torch.cat([first, x[:, 1:]], dim=1)
        r = torch.arange(len(x), device=x.device)
        seen: list[torch.Tensor] = []

        def add_high(module: Any, args: Any, output: Any) -> Any:
            hidden = block_output(output)
            seen.append(hidden[r, rows.prediction])
            if high is None:
                return output
            at = F.one_hot(rows.prediction, hidden.shape[1]).to(hidden.dtype)
            return with_hidden(output, hidden + at[:, :, None] * high[:, None].to(hidden.dtype))

        handles = []
        if self.high is not None:
            handles.append(self.layers[self.high].register_forward_hook(add_high))
        with hooked(*handles):
            hidden = self.backbone(
                inputs_embeds=x,
                attention_mask=rows.mask,
                position_ids=rows.position_ids,
                past_key_values=_GivenPast(rows.past),
                use_cache=False,
            ).last_hidden_state
        return hidden, seen[0] if seen else None

    def target_nll(self, rows: Rows, hidden: torch.Tensor) -> torch.Tensor:
        """Mean negative log-likelihood of the target tokens of each row, (r,)."""
        row, place = (rows.targets >= 0).nonzero(as_tuple=True)
        logits = self.head(hidden[row, place]).float()
        losses = F.cross_entropy(logits, rows.targets[row, place], reduction="none")
        zeros = losses.new_zeros(len(hidden))
        counts = zeros.index_add(0, row, torch.ones_like(losses))
        return zeros.index_add(0, row, losses) / counts


@torch.no_grad()
def keys_and_states(
    view: ModelView,
    rows: Sequence[Sequence[PromptTokens]],
    position: str,
    layer: int,
    last: int,
    batch_rows: int = 256,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys of block ``layer`` and current states of block ``last`` for every fact.

    ``rows`` has one list per fact, the empty prefix first.  ``position`` is ``subject_last`` or
    ``prediction``.  Keys (m, d_ff) are ½·(empty prefix) + ½·(mean of the others); states (m, d)
    come from the empty prefix.  Both float32.
    """
    flat = [row for fact in rows for row in fact]
    cut = [
        PromptTokens(row.ids[: getattr(row, position) + 1], row.subject_last, row.prediction, 0)
        for row in flat
    ]
    order = sorted(range(len(cut)), key=lambda i: len(cut[i].ids))
    backbone = lower_part(view, last)
    family, device = view.base.family, view.base.device
    keys: list[Any] = [None] * len(cut)
    states: list[Any] = [None] * len(cut)
    taken: dict[str, torch.Tensor] = {}

    def take_key(module: Any, args: Any, output: Any) -> None:
        taken["key"] = args[0]

    def take_state(module: Any, args: Any, output: Any) -> None:
        taken["state"] = block_output(output)

    with hooked(
        family.mlp_out_of(view.model, layer).register_forward_hook(take_key),
        family.layers_of(view.model)[last].register_forward_hook(take_state),
    ):
        for start in range(0, len(order), batch_rows):
            chosen = order[start : start + batch_rows]
            batch = stack_rows([cut[i] for i in chosen], device)
            backbone(input_ids=batch.ids, use_cache=False)
            r = torch.arange(len(chosen), device=device)
            key = taken["key"].view(*batch.ids.shape, -1)[r, batch.lengths - 1].float()
            state = taken["state"][r, batch.lengths - 1].float()
            for i, k, h in zip(chosen, key, state, strict=True):
                keys[i], states[i] = k, h
    per_fact = len(rows[0])
    stacked = torch.stack(keys).view(len(rows), per_fact, -1)
    averaged = stacked[:, 0]
    if per_fact > 1:
        averaged = 0.5 * averaged + 0.5 * stacked[:, 1:].mean(dim=1)
    return averaged, torch.stack(states[::per_fact])
