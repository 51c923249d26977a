"""Runs with one state patched, at one block after the other, all of them in one pass.

A run that is patched at block l is the unpatched one up to there, and to the left of the
subject's last token everywhere.  So it is entered at block l with the tokens from the subject's
last one on, and takes keys and values to its left from the unpatched run.  The blocks are
worked through once: at each, the runs that were patched further down go through together, and
those that are patched there join them.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from jeep_core.models.masks import NOWHERE, Attention
from jeep_core.models.token_rows import GivenPast, TokenRows, no_past, stack_rows
from jeep_core.models.views import ModelView, block_part, hooked
from jeep_core.probe.head import logits_in_parts, probabilities
from jeep_core.spec.finite import OTHER_VERSION, check_tensor
from jeep_core.spec.positions import PromptTokens

PATCHED_TOKENS = 4096
"""Most tokens, those of all blocks' runs together, that go through a block at once."""


def small_batches(view: ModelView, rows: Sequence[PromptTokens]) -> list[list[int]]:
    """Numbers of rows, so many together that their patched runs fit into ``PATCHED_TOKENS``."""
    sizes = [row.prediction - row.subject_last + 1 for row in rows]
    found: list[list[int]] = []
    for i in sorted(range(len(rows)), key=lambda i: (sizes[i], len(rows[i].ids))):
        tokens = sizes[i] * view.base.n_layers
        if found and tokens * (len(found[-1]) + 1) <= PATCHED_TOKENS:
            found[-1].append(i)
        else:
            found.append([i])
    return found


@torch.no_grad()
def patched_at_every_block(
    view: ModelView,
    rows: Sequence[PromptTokens],
    sources: Sequence[PromptTokens],
    tokens: torch.Tensor,
    noise: torch.Tensor | None = None,
) -> torch.Tensor:
    """P (r, 1 + L, k) of ``tokens`` (r, k) as the next ones after r ``rows``.

    First without a patch; then with the output of each block at the row's subject's last token
    replaced by that of the row's source at its own.  ``noise`` (r, t or more, d) is added to the
    embeddings of the rows, not to those of their sources.

    Raises:
        NumericalError: a probability is not finite; the message names the block.
    """
    runs = _Runs.of(view, rows, sources)
    with nullcontext() if noise is None else _added(view, runs.both, noise):
        states = runs.through_all_blocks()  # (1 + L, r, d)
    normed = view.base.family.final_norm_of(view.model)(states.flatten(0, 1))
    wanted = tokens.to(normed.device).repeat(len(states), 1)  # ((1 + L) r, k)
    parts = [
        probabilities(logits, wanted[place]) for place, logits in logits_in_parts(view, normed)
    ]
    found = torch.cat(parts).view(*states.shape[:2], -1).cpu()
    for layer, values in enumerate(found, start=-1):
        where = "before the patch" if layer < 0 else f"with layer {layer} patched"
        check_tensor(values, f"the probability of an answer {where}", OTHER_VERSION)
    return found.transpose(0, 1)


def _added(view: ModelView, rows: TokenRows, noise: torch.Tensor) -> Any:
    """Add noise (r, t or more, d) to the embeddings of the first r of 2 r rows."""
    width = rows.ids.shape[1]

    def add(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        noisy = output[: len(noise)].float() + noise[:, :width]
        return torch.cat([noisy.to(output.dtype), output[len(noise) :]])

    return hooked(view.model.get_input_embeddings().register_forward_hook(add))


@dataclass(frozen=True)
class _Runs:
    """r rows and their sources, one after the other in ``both``.

    ``positions`` (2 r, t) of their tokens.  ``segment`` (r, q): places of each row from the
    subject's last token to the prediction, further ones being padding; ``left`` (r, s): the
    positions to the left of them.
    """

    view: ModelView
    both: TokenRows
    positions: torch.Tensor
    segment: torch.Tensor
    left: torch.Tensor

    @classmethod
    def of(
        cls, view: ModelView, rows: Sequence[PromptTokens], sources: Sequence[PromptTokens]
    ) -> _Runs:
        both = stack_rows([*rows, *sources], view.base.device)
        positions = both.positions(view.base.max_positions)
        last, prediction = both.subject_last[: len(rows)], both.prediction[: len(rows)]
        offsets = torch.arange(int((prediction - last).max()) + 1, device=last.device)
        segment = (last[:, None] + offsets).clamp(max=both.ids.shape[1] - 1)
        before = torch.arange(int(last.max()), device=last.device)
        left = torch.where(before < last[:, None], before, NOWHERE)
        return cls(view, both, positions, segment, left)

    def through_all_blocks(self) -> torch.Tensor:
        """States (1 + L, r, d) after the last block at the prediction position."""
        view, r = self.view, len(self.segment)
        row = torch.arange(r, device=self.segment.device)
        offset = self.both.prediction[:r] - self.segment[:, 0]
        mask = self._mask(self.positions[:, :0], self.positions)
        whole, patched = self.both.ids, None
        for layer in range(view.base.n_layers):
            block = block_part(view, layer)
            cache = GivenPast(no_past(view, 2 * r, layer), keep=True)
            name = "inputs_embeds" if layer else "input_ids"
            whole = block(
                **{name: whole},
                attention_mask=mask,
                position_ids=self.positions,
                cache=cache,
                use_cache=False,
            ).last_hidden_state
            joining = whole[row[:, None], self.segment]
            joining[:, 0] = whole[r + row, self.both.subject_last[r:]]
            if patched is None:
                patched = joining
            else:
                patched = torch.cat([self._through(block, layer, patched, cache), joining])
        assert patched is not None
        kept = patched.view(-1, *joining.shape)[:, row, offset]
        return torch.cat([whole[row, self.both.prediction[:r]][None], kept])

    def _through(
        self, block: Any, layer: int, states: torch.Tensor, cache: GivenPast
    ) -> torch.Tensor:
        """A block's output (n r, q, d) for n patched states of each row, after their left part."""
        row = torch.arange(len(states), device=states.device) % len(self.segment)
        left, own = self.left[row], self.positions[row[:, None], self.segment[row]]
        keys, values = (
            kept[:, :, : left.shape[1]][row.to(kept.device)] for kept in cache.kept[layer]
        )
        found: torch.Tensor = block(
            inputs_embeds=states,
            attention_mask=self._mask(left, own),
            position_ids=own,
            cache=GivenPast({layer: (keys, values)}),
            use_cache=False,
        ).last_hidden_state
        return found

    def _mask(self, past: torch.Tensor, own: torch.Tensor) -> Any:
        return Attention.of(self.view.base).mask(past, own, self.view.base.dtype)
