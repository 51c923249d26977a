"""Keys and states of a region that is being written, each block run from where the last ended.

A region is written block by block from below.  To read block l, blocks below l need not run again
from the embedding: their matrices have not changed since block l - 1 was read, but for that of
block l - 1 itself.  So the states that enter a block are kept for all rows, and of the block that
was read what its new matrix does not change: its attention, and its keys where they were read of
all tokens.  The same operations on the same shapes as from the embedding give the same bits.
Where that would be too much memory, nothing of some rows is kept, and these run from the embedding
each time.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from jeep_core.models.fused.twin import Twin
from jeep_core.models.masks import Attention
from jeep_core.models.post_mlp_norm import back_through_norm
from jeep_core.models.token_rows import GivenPast, Leading, leading_rows, stack_rows
from jeep_core.models.views import ModelView, block_output, hooked
from jeep_core.spec.matrices import Place, layer_of
from jeep_core.spec.positions import PromptTokens
from jeep_core.values.climb.rows import Places, Rows, Seen, leaving, seeing, worth_it
from jeep_core.values.defaults import READ_ROWS

Position = Literal["subject_last", "prediction"]
FactRows = Sequence[Sequence[PromptTokens]]
"""One list of rows per fact, the empty prefix first."""


@dataclass
class _Batch(Rows):
    """Rows up to the place that is read.

    ``group`` (r,) number of the row's prefix; ``at`` (r,) column that is read; ``with_states``:
    whether states are read, too; ``twin`` runs them, if it is given; ``climbs``: whether anything
    of them is kept.
    """

    group: torch.Tensor
    at: torch.Tensor
    with_states: bool
    twin: Twin | None
    climbs: bool = True


class RegionReader:
    """Reads one position of all rows in a view, layer by layer in ascending order.

    After a reading the matrix at its place may be written, and no other.  ``last``: the block whose
    states are read.  ``at_projection``: states are outputs of its MLP's output projection.  Rows
    after prefixes are run by ``twin``, if it is given.  ``memory_bytes`` bounds what is kept of the
    rows, None: all is.
    """

    @torch.no_grad()
    def __init__(
        self,
        view: ModelView,
        rows: FactRows,
        position: Position,
        last: int,
        *,
        at_projection: bool = False,
        twin: Twin | None = None,
        memory_bytes: int | None = None,
    ) -> None:
        self.view, self.last, self.at_projection = view, last, at_projection
        self.attention = Attention.of(view.base)
        self.layer = 0
        """The block that ``states`` enter."""
        groups = [[fact[j] for fact in rows] for j in range(len(rows[0]))]
        self._lead = lead = leading_rows(view, groups)
        self._lead_rows: Rows | None = None  # (g, c)
        if lead.width:
            mask = lead.mask(self.attention, view.base.dtype)
            self._lead_rows = Rows(lead.ids, lead.positions, mask, worth_it(lead.real()))
        # keys and values of all blocks so far; none of the others is looked at
        self._leading = Leading(lead.lengths, lead.blank(view, last))
        self._led = False
        cut = [
            # nothing right of the position that is read can reach it
            [replace(row, ids=row.ids[: getattr(row, position) + 1]) for row in group]
            for group in groups
        ]
        self._facts = len(rows)
        self._plain, self._plain_order = self._batches(cut, [0], None)
        self._others: list[_Batch] = []
        if len(groups) > 1:
            self._others, self._others_order = self._batches(cut, range(1, len(groups)), twin)
        kept, d, d_ff = 0, view.base.hidden_size, view.base.mlp_size
        for batches, token in ((self._plain, 2 * d + d_ff), (self._others, 2 * d)):
            for batch in batches:  # states, what an attention gave, and keys of all tokens
                size = batch.ids.numel() * token * view.base.dtype.itemsize
                batch.climbs = memory_bytes is None or kept + size <= memory_bytes
                kept += size if batch.climbs else 0

    # ------------------------------------------------------------ what is read

    @torch.no_grad()
    def read(self, place: Place) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys (m, d_ff) at ``place`` and current states (m, d) of block ``last``, float32.

        Keys are on the device of their block, states on that of the model's ends.
        Keys are ½·(empty prefix) + ½·(mean of the others); states come from the empty prefix.
        """
        self._climb_to(place)
        plain, states = self._read(self._plain, self._plain_order, place, self.last)
        if not self._others:
            return plain, states
        return 0.5 * plain + 0.5 * self._prefixed(place).mean(dim=0), states

    @torch.no_grad()
    def by_row(self, place: Place) -> torch.Tensor:
        """Keys (m, prefixes, d_ff) at ``place``, float32, the empty prefix first."""
        self._climb_to(place)
        plain = self._read(self._plain, self._plain_order, place, layer_of(place))[0][:, None]
        if not self._others:
            return plain
        return torch.cat([plain, self._prefixed(place).transpose(0, 1)], dim=1)

    @torch.no_grad()
    def states(self) -> torch.Tensor:
        """Current states (m, d) of block ``last``, float32."""
        self._climb_to(self.last)
        return self._read(self._plain, self._plain_order, self.last, self.last)[1]

    @torch.no_grad()
    def residuals_at(self, place: Place, residuals: torch.Tensor) -> torch.Tensor:
        """Residuals (m, d) at the output of a block as residuals of its projection at ``place``.

        They are the same but where a norm follows the MLP or the attention (see
        ``jeep_core.models.post_mlp_norm``).
        """
        family, model = self.view.base.family, self.view.model
        norm = family.norm_after(model, place)
        if norm is None:
            return residuals
        self._climb_to(place)
        keys = self._read(self._plain, self._plain_order, place, layer_of(place))[0]
        # (m, d): what the projection gives now, before the norm
        outputs = family.projection_of(model, place)(keys.to(self.view.base.dtype))
        residuals = residuals.to(outputs.device)
        epsilon = family.norm_epsilon_of(model)
        return back_through_norm(outputs, residuals, family.norm_gain(norm), epsilon)

    def _prefixed(self, place: Place) -> torch.Tensor:
        """Keys (prefixes - 1, m, d_ff): groups come prefix by prefix."""
        keys, _ = self._read(self._others, self._others_order, place, layer_of(place))
        return keys.view(-1, self._facts, keys.shape[1])

    def _read(
        self, batches: Sequence[_Batch], order: Sequence[int], place: Place, until: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys (n, d_ff) at ``place`` and states (n, d) of block ``until``, in the rows' order."""
        parts = [self._read_batch(batch, place, until) for batch in batches]
        # (n,): the inverse of ``order``
        back = torch.argsort(torch.tensor(order, device=self.view.base.device))
        keys, states = zip(*parts, strict=True)
        return _in_order(torch.cat(keys), back), _in_order(torch.cat(states), back)

    def _read_batch(
        self, batch: _Batch, place: Place, until: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        layer, cut = layer_of(place), place == until  # the MLP runs at the places read alone
        r = torch.arange(len(batch.at), device=batch.at.device)
        seen = batch.seen if batch.climbs and place == layer else Seen()
        taken: dict[str, torch.Tensor] = {}

        def take_key(module: Any, args: Any, output: Any) -> None:
            key = args[0]
            if (
                batch.with_states
            ):  # it runs on through the projection, with this matrix and a new one
                seen.key, seen.inner = (key, seen.inner) if cut else (seen.key, key)
            if cut:
                taken["key"] = key  # (r, d_ff)
                return
            # (r, t, d_ff), or those of the tokens alone (n, d_ff): one of each row is taken
            if place == layer and batch.tokens is not None:
                taken["key"] = key[_numbers(batch.tokens, batch.at).to(key.device)]
            else:
                taken["key"] = _at(key.view(*batch.ids.shape, -1), r, batch.at)

        def take_state(module: Any, args: Any, output: Any) -> None:
            hidden = block_output(output)
            # the projection, too, is run at these places alone: (r, d)
            taken["state"] = hidden if self.at_projection else _at(hidden, r, batch.at)

        view = self._view_of(batch)
        family, model = view.base.family, view.model
        block = family.layers_of(model)[until]
        state_of = family.mlp_out_of(model, until) if self.at_projection else block
        hooks = hooked(
            family.projection_of(model, place).register_forward_hook(take_key),
            state_of.register_forward_hook(take_state),
        )
        with hooks, seeing(view, layer, seen):
            self._run(batch, view, until, (r, batch.at))
        return taken["key"].float(), taken["state"].float().to(r.device)

    # ------------------------------------------------------------ how rows run

    def _batches(
        self,
        groups: Sequence[Sequence[PromptTokens]],
        chosen: Sequence[int],
        twin: Twin | None,
    ) -> tuple[list[_Batch], list[int]]:
        """The rows of some groups in batches of like lengths, and the order they are in."""
        rows = [(row, group) for group in chosen for row in groups[group]]
        own = [len(row.ids) - self._lead.lengths[group] for row, group in rows]
        # rows of like length share a batch, so that little is padded
        order = sorted(range(len(rows)), key=lambda i: own[i])
        parts = [order[n : n + READ_ROWS] for n in range(0, len(order), READ_ROWS)]
        plain = chosen[0] == 0
        return [self._batch([rows[i] for i in part], twin, plain) for part in parts], order

    def _batch(
        self, rows: Sequence[tuple[PromptTokens, int]], twin: Twin | None, plain: bool
    ) -> _Batch:
        base = self.view.base
        skip = [self._lead.lengths[group] for _, group in rows]
        batch = stack_rows([row for row, _ in rows], base.device, skip)
        group = torch.tensor([group for _, group in rows], device=base.device)
        positions = batch.positions(base.max_positions)
        leading = self._leading.positions(group)
        mask = self.attention.mask(leading, positions, base.dtype)
        own = batch.lengths - batch.skip
        # (r, t)
        real = torch.arange(positions.shape[1], device=base.device) < own[:, None]
        return _Batch(batch.ids, positions, mask, worth_it(real), group, own - 1, plain, twin)

    def _view_of(self, batch: _Batch) -> ModelView:
        """The view that runs a batch."""
        return self.view if batch.twin is None else batch.twin.now()

    def _run(self, batch: _Batch, view: ModelView, until: int, only: Places | None = None) -> None:
        """Run a batch through block ``until``, from the one that the reader is at if it climbs."""
        first = self.layer if batch.climbs else 0
        past = self._leading.past_of(batch.group, range(first, until + 1))
        with nullcontext() if batch.twin is None else batch.twin.products():
            batch.run(view, first, until, GivenPast(past), only)

    def _climb_to(self, place: Place) -> None:
        """Bring what is kept to where it enters the block of ``place``."""
        layer = layer_of(place)
        if not self._led or layer != self.layer:
            if self._lead_rows is not None:
                self._lead_to(self._lead_rows, layer)
            self._led = True
            for batch in (*self._plain, *self._others):
                if batch.climbs and layer != self.layer:
                    self._climb(batch, layer)
            self.layer = layer
        if place != layer:  # a new matrix of the attention changes all that was seen of its block
            for rows in (self._lead_rows, *self._plain, *self._others):
                if rows is not None:
                    rows.forget()

    def _climb(self, batch: _Batch, layer: int) -> None:
        left, view = list[torch.Tensor](), self._view_of(batch)
        with leaving(view, layer - 1, left):
            self._run(batch, view, layer - 1)
        [batch.states] = left
        batch.forget()

    def _lead_to(self, rows: Rows, layer: int) -> None:
        """Keys and values of the leading tokens in the blocks that are read from ``layer`` on.

        Those in blocks below the one that the reader is at are as they were.
        """
        # states of higher blocks are read of rows without a prefix, which share few tokens or none
        until = self.last if self._lead.lengths[0] else layer
        left, seen = list[torch.Tensor](), Seen()
        nowhere = torch.empty(0, dtype=torch.long, device=rows.ids.device)
        cache = GivenPast(self._lead.nothing(self.view, self.last), keep=True)
        moves = layer != self.layer
        keeping = leaving(self.view, layer - 1, left) if moves else nullcontext()
        with keeping, seeing(self.view, layer, seen):
            rows.run(self.view, self.layer, until, cache, (nowhere, nowhere))
        if moves:
            [rows.states] = left
        rows.seen = seen
        self._leading.past.update(cache.kept)


def _at(states: torch.Tensor, row: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    """Of states (r, t, d), on any device, those at n places, ``row`` and ``place`` (n,): (n, d)."""
    return states[row.to(states.device), place.to(states.device)]


def _in_order(rows: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """``rows`` (n, size), on any device, in the order (n,)."""
    return rows[order.to(rows.device)]


def _numbers(tokens: Places, at: torch.Tensor) -> torch.Tensor:
    """Of n tokens the numbers (r,) of those at columns ``at`` (r,), one of each row."""
    row, column = tokens
    return (column == at[row]).nonzero().flatten()
