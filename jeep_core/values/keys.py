"""Keys of a matrix to be written, and the states that it is written for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch

from jeep_core.models.masks import Attention
from jeep_core.models.post_mlp_norm import back_through_norm
from jeep_core.models.token_rows import GivenPast, Leading, leading_of, stack_rows
from jeep_core.models.views import ModelView, block_output, hooked, lower_part, mlp_only_at
from jeep_core.spec.matrices import Place, layer_of
from jeep_core.spec.positions import PromptTokens

Position = Literal["subject_last", "prediction"]
FactRows = Sequence[Sequence[PromptTokens]]
"""One list of rows per fact, the empty prefix first."""


@torch.no_grad()
def keys_and_states(
    view: ModelView,
    rows: FactRows,
    position: Position,
    place: Place,
    last: int,
    at_projection: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys at ``place`` and current states of block ``last`` for every fact.

    Keys (m, d_ff) are ½·(empty prefix) + ½·(mean of the others); states (m, d) come from the
    empty prefix, ``at_projection`` from the MLP's output projection.  Both float32.
    """
    reader = _Reader(view, rows, position, last, at_projection)
    # the plain rows run on to block ``last`` for the states, prefixed ones only to the key
    plain, states = reader.read([0], place, last)
    others = len(rows[0]) - 1
    if not others:
        return plain, states
    prefixed, _ = reader.read(range(1, others + 1), place, layer_of(place))
    # groups come prefix by prefix: (others · m, d_ff) to (others, m, d_ff)
    return 0.5 * plain + 0.5 * prefixed.view(others, len(rows), -1).mean(dim=0), states


@torch.no_grad()
def states_of(
    view: ModelView,
    rows: FactRows,
    position: Position,
    last: int,
    at_projection: bool = False,
) -> torch.Tensor:
    """Current states (m, d) as in ``keys_and_states``, alone."""
    reader = _Reader(view, [fact[:1] for fact in rows], position, last, at_projection)
    return reader.read([0], last, last)[1]


@torch.no_grad()
def keys_by_row(view: ModelView, rows: FactRows, position: Position, layer: int) -> torch.Tensor:
    """Keys (m, prefixes, d_ff) of block ``layer``, float32."""
    n = len(rows[0])
    keys, _ = _Reader(view, rows, position, layer).read(range(n), layer, layer)
    # (prefixes · m, d_ff), prefix by prefix, to (m, prefixes, d_ff)
    return keys.view(n, len(rows), -1).transpose(0, 1)


@torch.no_grad()
def residuals_at_projection(
    view: ModelView, rows: FactRows, position: Position, place: Place, residuals: torch.Tensor
) -> torch.Tensor:
    """Residuals (m, d) at the output of a block as residuals of its projection at ``place``.

    They are the same but where a norm follows the MLP or the attention (see
    ``jeep_core.models.post_mlp_norm``).
    """
    family = view.base.family
    norm = family.norm_after(view.model, place)
    if norm is None:
        return residuals
    layer = layer_of(place)
    plain = _Reader(view, [fact[:1] for fact in rows], position, layer)
    keys, _ = plain.read([0], place, layer)
    # (m, d): what the projection gives now, before the norm
    outputs = family.projection_of(view.model, place)(keys.to(view.base.dtype))
    epsilon = family.norm_epsilon_of(view.model)
    return back_through_norm(outputs, residuals, family.norm_gain(norm), epsilon)


class _Reader:
    """Reads one position of rows; a group is the rows of all facts after one prefix."""

    def __init__(
        self,
        view: ModelView,
        rows: FactRows,
        position: Position,
        last: int,
        at_projection: bool = False,
    ) -> None:
        self.at_projection = at_projection
        self.view, self.attention = view, Attention.of(view.base)
        groups = [[fact[j] for fact in rows] for j in range(len(rows[0]))]
        self.leading: Leading = leading_of(view, groups, last)
        self.groups = [
            # nothing right of the position that is read can reach it
            [replace(row, ids=row.ids[: getattr(row, position) + 1]) for row in group]
            for group in groups
        ]

    def read(
        self, groups: Sequence[int], place: Place, until: int, batch_rows: int = 256
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys (n, d_ff) at ``place`` and states (n, d) of block ``until``, by group."""
        rows = [(row, group) for group in groups for row in self.groups[group]]
        # tokens left to run: rows of like length share a batch, so that little is padded
        own = [len(row.ids) - self.leading.lengths[group] for row, group in rows]
        order = sorted(range(len(rows)), key=lambda i: own[i])
        parts = [
            self._batch([rows[i] for i in order[n : n + batch_rows]], place, until)
            for n in range(0, len(order), batch_rows)
        ]
        # (n,): the inverse of ``order``
        back = torch.argsort(torch.tensor(order, device=self.view.base.device))
        keys, states = zip(*parts, strict=True)
        return torch.cat(keys)[back], torch.cat(states)[back]

    def _batch(
        self, rows: Sequence[tuple[PromptTokens, int]], place: Place, until: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        view, device = self.view, self.view.base.device
        skip = [self.leading.lengths[group] for _, group in rows]
        batch = stack_rows([row for row, _ in rows], device, skip)
        group = torch.tensor([group for _, group in rows], device=device)
        positions = batch.positions(view.base.max_positions)
        # (r,): the last column of each row
        r, at = torch.arange(len(rows), device=device), batch.lengths - batch.skip - 1
        taken: dict[str, torch.Tensor] = {}

        def take_key(module: Any, args: Any, output: Any) -> None:
            key = args[0]
            cut = place == until  # the MLP runs at the places that count alone
            # (r, d_ff); keys of all places are (r, t, d_ff) and one of each row is taken
            taken["key"] = key if cut else key.view(*batch.ids.shape, -1)[r, at]

        def take_state(module: Any, args: Any, output: Any) -> None:
            hidden = block_output(output)
            # the projection, too, is run at these places alone: (r, d)
            taken["state"] = hidden if self.at_projection else hidden[r, at]

        family = view.base.family
        block = family.layers_of(view.model)[until]
        state_of = family.mlp_out_of(view.model, until) if self.at_projection else block
        hooks = hooked(
            family.projection_of(view.model, place).register_forward_hook(take_key),
            state_of.register_forward_hook(take_state),
        )
        leading = self.leading.positions(group)
        with mlp_only_at(view, until, r, at), hooks:
            lower_part(view, until)(
                input_ids=batch.ids,
                attention_mask=self.attention.mask(leading, positions, view.base.dtype),
                position_ids=positions,
                cache=GivenPast(self.leading.past_of(group, range(until + 1))),
                use_cache=False,
            )
        return taken["key"].float(), taken["state"].float()
