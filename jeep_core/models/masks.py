"""Attention masks of every family: full, windowed, or a kind for each block."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from jeep_core.models.loading import LoadedModel

NOWHERE = -1
"""The position of a place where no token is."""


@dataclass(frozen=True)
class Attention:
    """The reach of a model's blocks: all tokens to the left, or the last ``window`` of them.

    ``kinds``: the windows of the kinds of blocks by name, if a model has several kinds and takes
    a mask for each.
    """

    window: int | None = None
    kinds: Mapping[str, int | None] = field(default_factory=dict)

    @classmethod
    def of(cls, base: LoadedModel) -> Attention:
        """The attention of a model."""
        config, family = base.model.config, base.family
        if family.window == "none":
            return cls()
        return cls(config.sliding_window, family.windows_of(config))

    def mask(
        self,
        past: torch.Tensor,
        own: torch.Tensor,
        dtype: torch.dtype,
        texts: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> Any:
        """The mask that a backbone takes for tokens at positions ``own`` (r, q) after given ones.

        ``past`` (r, s): positions of the given keys; at ``NOWHERE`` or below there is no token.
        ``texts``: where a row holds several texts beside one another, the numbers (r, s) and
        (r, q) of the texts that given and own tokens are of; a token sees its own text only.
        Returns an additive mask (r, 1, q, s+q) in ``dtype``, or one by kind of block.
        """
        if not self.kinds:
            return additive_mask(past, own, dtype, self.window, texts)
        return {
            kind: additive_mask(past, own, dtype, window, texts)
            for kind, window in self.kinds.items()
        }

    def among(self, positions: torch.Tensor, sees: torch.Tensor, dtype: torch.dtype) -> Any:
        """The mask that a backbone takes for tokens of which each attends to those it ``sees``.

        ``positions`` (r, t), ``sees`` (r, t, t), each token itself among them.  Returns an additive
        mask (r, 1, t, t) in ``dtype``, or one by kind of block.
        """

        def mask(window: int | None) -> torch.Tensor:
            near = sees
            if window is not None:
                near = sees & (positions[:, :, None] - positions[:, None, :] < window)
            return _additive(near, dtype)

        if not self.kinds:
            return mask(self.window)
        return {kind: mask(window) for kind, window in self.kinds.items()}

    def of_next_token(self, mask: torch.Tensor) -> Any:
        """The mask that a backbone takes for one new token per row, the last of s+1 columns.

        ``mask`` (r, 1, 1, s+1) is that of blocks without a window; rows are aligned at their
        ends.  Returns a mask of the same shape and dtype, or one by kind of block.
        """
        if self.window is None:
            return mask
        near = mask.clone()
        # the new token is the last column: the ``window`` last ones, with it, are near
        near[..., : max(0, mask.shape[3] - self.window)] = torch.finfo(mask.dtype).min
        if not self.kinds:
            return near
        return {kind: mask if window is None else near for kind, window in self.kinds.items()}


def additive_mask(
    past: torch.Tensor,
    own: torch.Tensor,
    dtype: torch.dtype,
    window: int | None = None,
    texts: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor:
    """Additive mask (r, 1, q, s+q) in ``dtype``: 0 where attended to, else the type's minimum.

    A token sees the tokens to its left; every place, padding too, sees itself, so that no
    softmax is over nothing.

    ``past`` (r, s), ``own`` (r, q) and ``texts`` as in ``Attention.mask``; with a ``window`` only
    tokens less than that far away.
    """
    # own tokens (q, s + q): all of the past, and what is not right of the token itself
    (r, s), q = past.shape, own.shape[1]
    # (r, 1, s + q)
    positions = torch.cat([past, own], dim=1)[:, None, :]
    itself = torch.eye(q, dtype=torch.bool, device=own.device)
    left = torch.ones(q, s + q, dtype=torch.bool, device=own.device).tril(s)
    seen = left & (positions > NOWHERE)
    if window is not None:
        # by positions, not columns: rows are padded between past and own tokens
        seen = seen & (own[:, :, None] - positions < window)
    if texts is not None:
        seen = seen & (texts[1][:, :, None] == torch.cat(texts, dim=1)[:, None, :])
    seen = seen.expand(r, q, s + q).clone()
    seen[:, :, s:] |= itself
    return _additive(seen, dtype)


def _additive(seen: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The additive mask (r, 1, q, k) in ``dtype`` of what is ``seen`` (r, q, k)."""
    mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
    return mask.masked_fill_(~seen, torch.finfo(dtype).min)[:, None]
