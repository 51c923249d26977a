"""Rows that run through some blocks, and what is kept of a block until its matrix is written.

The MLP's matrix of a block changes neither the block's attention nor what goes into its projection,
so neither is computed again when the block runs with its new matrix.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from jeep_core.models.token_rows import GivenPast
from jeep_core.models.views import (
    ModelView,
    answering,
    block_output,
    hooked,
    middle_part,
    mlp_only_at,
)

Places = tuple[torch.Tensor, torch.Tensor]
"""Row and column of n places, both (n,)."""
PADDED = 0.05
"""The share of padding from which on MLPs run at tokens alone."""
FEWEST = 8
"""The fewest tokens for that: products over very few rows are summed in another order, and so have
other last bits."""


@dataclass
class Seen:
    """The parts of a block that was read that a new matrix of its MLP does not change.

    ``attention``: what its attention gave; ``inner`` (…, d_ff): what went into the MLP's projection
    at all tokens; ``key`` (r, d_ff): at the places that are read alone.
    """

    attention: Any = None
    inner: torch.Tensor | None = None
    key: torch.Tensor | None = None


@dataclass
class Rows:
    """r rows that run together, after keys and values that they are given.

    ``ids``, ``positions`` (r, t); ``mask`` as the backbone takes it; ``tokens``: the places that
    are no padding, None where nearly all are none; ``states`` (r, t, d) entering the block that
    they have reached, None at the embedding; ``seen`` of that block.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    mask: Any
    tokens: Places | None
    states: torch.Tensor | None = field(default=None, init=False)
    seen: Seen = field(default_factory=Seen, init=False)

    def run(
        self, view: ModelView, first: int, last: int, cache: GivenPast, only: Places | None = None
    ) -> None:
        """Run blocks ``first`` to ``last``, the MLP of the last one at n places ``only``: row and
        column, both (n,).

        What was seen of block ``first`` is not computed again.
        """
        family, model, seen = view.base.family, view.model, self.seen
        with ExitStack() as stack:
            if seen.attention is not None:
                attention, given = family.attention_of(model, first), seen.attention
                stack.enter_context(answering(attention, lambda *args, **more: given))
            inner = seen.inner if only is None or first < last else seen.key
            if inner is not None:
                value = partial(family.mlp_out_of(model, first), inner)
                mlp = family.mlp_of(model, first)
                stack.enter_context(answering(mlp, lambda *args, **more: value()))
            for layer in range(first, last + 1):
                places = only if only is not None and layer == last else self.tokens
                if places is not None:
                    stack.enter_context(mlp_only_at(view, layer, *places))
            middle_part(view, first, last)(
                **_entering(self.ids, self.states),
                attention_mask=self.mask,
                position_ids=self.positions,
                cache=cache,
                use_cache=False,
            )

    def forget(self) -> None:
        """Keep nothing of the block that they have reached but the states that enter it."""
        self.seen = Seen()


def worth_it(real: torch.Tensor) -> Places | None:
    """The places that are ``real`` (r, t), None if nearly all are or there are few of them."""
    row, column = real.nonzero(as_tuple=True)
    worth = FEWEST <= len(row) <= (1 - PADDED) * real.numel()
    return (row, column) if worth else None


@contextmanager
def leaving(view: ModelView, layer: int, into: list[torch.Tensor]) -> Iterator[None]:
    """Keep the states (r, t, d) that leave block ``layer``."""

    def keep(module: Any, args: Any, output: Any) -> None:
        into.append(block_output(output))

    block = view.base.family.layers_of(view.model)[layer]
    with hooked(block.register_forward_hook(keep)):
        yield


@contextmanager
def seeing(view: ModelView, layer: int, into: Seen) -> Iterator[None]:
    """Keep what the attention of block ``layer`` gives, but for its probabilities.

    Those, (r, heads, t, t) of an attention that gives them, enter nothing and may be larger than
    all else that is kept.
    """

    def keep(module: Any, args: Any, output: Any) -> None:
        if isinstance(output, tuple):
            output = output[0], *(None for _ in output[1:])
        into.attention = output

    attention = view.base.family.attention_of(view.model, layer)
    with hooked(attention.register_forward_hook(keep)):
        yield


def _entering(ids: torch.Tensor, states: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """The arguments of a backbone: ids (r, t) at the embedding, else states (r, t, d)."""
    return {"input_ids": ids} if states is None else {"inputs_embeds": states}
