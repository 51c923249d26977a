"""The part of a model that a value vector can still change, run over batches of rows.

``UpperStack`` holds the blocks above layer ``low``.  A row is entered at its subject's last
token with the hidden state of block ``low``; keys and values to its left are given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn import functional as F

from jeep_core.models.masks import NOWHERE, Attention
from jeep_core.models.token_rows import GivenPast, Leading, Past, leading_of, stack_rows
from jeep_core.models.views import (
    ModelView,
    block_output,
    hooked,
    lower_part,
    mlp_only_at,
    upper_part,
    with_hidden,
)
from jeep_core.spec.positions import PromptTokens

NO_TARGET = -100


@dataclass
class Rows:
    """Rows from subject-last on.

    ``segment`` (r, q, d): hidden states at the output of block ``low``; ``lengths`` (r,) of
    them are real.  ``position_ids`` (r, q).  ``past``: keys and values (r, heads, s, head_dim)
    by block of what is to the left, at positions ``past_positions`` (r, s).  ``prediction`` (r,) is
    relative to the segment.
    ``targets`` (r, q): the id to be predicted at each place, -100 elsewhere; without any, the
    head is read at the first place.
    """

    segment: torch.Tensor
    lengths: torch.Tensor
    position_ids: torch.Tensor
    past_positions: torch.Tensor
    past: Past
    prediction: torch.Tensor
    targets: torch.Tensor
    attention: Attention

    def __post_init__(self) -> None:
        self.mask = self.attention.mask(self.past_positions, self.position_ids, self.segment.dtype)
        # n places (row, place) at which the head is read, row by row
        read = self.targets >= 0
        # rows without targets are those of the KL term: read at subject-last
        read[:, 0] |= ~read.any(dim=1)
        self.read_row, self.read_place = read.nonzero(as_tuple=True)

    def __len__(self) -> int:
        return len(self.segment)

    @property
    def start_state(self) -> torch.Tensor:
        """Unedited states (r, d) at subject-last, block ``low``."""
        return self.segment[:, 0]

    def keep(self, index: torch.Tensor) -> Rows:
        """The rows ``index`` (k,), with q and s no larger than they need."""
        lengths, positions = self.lengths[index], self.past_positions[index]
        q = int(lengths.max())
        # columns of the past in which a row that is left has a token
        used = (positions != NOWHERE).any(dim=0).nonzero().flatten()
        whole = len(used) == positions.shape[1]

        def cut(states: torch.Tensor) -> torch.Tensor:
            # (r, heads, s, head_dim) to (k, heads, s', head_dim)
            chosen = states[index]
            return chosen if whole else chosen[:, :, used]

        return Rows(
            segment=self.segment[index, :q],
            lengths=lengths,
            position_ids=self.position_ids[index, :q],
            past_positions=positions[:, used],
            past={layer: (cut(k), cut(v)) for layer, (k, v) in self.past.items()},
            prediction=self.prediction[index],
            targets=self.targets[index, :q],
            attention=self.attention,
        )

    def join(self, other: Rows) -> Rows:
        """These rows, then ``other``'s, padded to the same q and s."""
        q = max(self.segment.shape[1], other.segment.shape[1])
        s = max(self.past_positions.shape[1], other.past_positions.shape[1])

        def both(a: torch.Tensor, b: torch.Tensor, dim: int, size: int, value: int) -> torch.Tensor:
            return torch.cat([_padded(t, dim, size, value) for t in (a, b)])

        return Rows(
            # padding of the past is hidden by NOWHERE; that of segments lies right of what is read
            segment=both(self.segment, other.segment, 1, q, 0),
            lengths=torch.cat([self.lengths, other.lengths]),
            position_ids=both(self.position_ids, other.position_ids, 1, q, 0),
            past_positions=both(self.past_positions, other.past_positions, 1, s, NOWHERE),
            past={
                layer: (
                    both(k, other.past[layer][0], 2, s, 0),
                    both(v, other.past[layer][1], 2, s, 0),
                )
                for layer, (k, v) in self.past.items()
            },
            prediction=torch.cat([self.prediction, other.prediction]),
            targets=both(self.targets, other.targets, 1, q, NO_TARGET),
            attention=self.attention,
        )


def _padded(tensor: torch.Tensor, dim: int, size: int, value: int) -> torch.Tensor:
    missing = size - tensor.shape[dim]
    if not missing:
        return tensor
    shape = list(tensor.shape)
    shape[dim] = missing
    return torch.cat([tensor, tensor.new_full(shape, value)], dim=dim)


class UpperStack:
    """The blocks above ``low`` of a view, with a place to add a vector at block ``high``.

    ``groups`` are all rows that will be captured, grouped by their beginnings.  With ``inside``,
    block ``low`` itself is the first of them, entered with its input, and vectors are added to
    the outputs of its projections.
    """

    def __init__(
        self,
        view: ModelView,
        low: int,
        high: int | None,
        groups: Sequence[Sequence[PromptTokens]],
        inside: bool = False,
    ) -> None:
        self.view, self.low, self.high, self.inside = view, low, high, inside
        # ``first`` is the first block that a step runs
        self.layers = view.base.family.layers_of(view.model)
        self.first = low if inside else low + 1
        self.lower, self.upper = lower_part(view, low), upper_part(view, self.first)
        self.attention = Attention.of(view.base)
        self.leading: Leading = leading_of(view, groups, len(self.layers) - 1)

    @torch.no_grad()
    def capture(self, rows: Sequence[PromptTokens], groups: Sequence[int]) -> Rows:
        """Run rows once, unedited, and keep what no later step changes.

        The lower blocks run over every token after the leading ones, the upper blocks only
        over those left of the subject's last token.  The last target token is never read.
        """
        device = self.view.base.device
        # ids up to the last place that is read; its own target is no input
        inputs = [replace(row, ids=row.ids[: _last_read(row) + 1]) for row in rows]
        batch = stack_rows(inputs, device, [self.leading.lengths[g] for g in groups])
        group = torch.tensor(groups, device=device)
        positions = batch.positions(self.view.base.max_positions)
        start = batch.subject_last - batch.skip  # (r,): columns of subject-last in ``states``
        states = self._lower_states(batch.ids, positions, group)  # (r, t, d)
        past, past_positions = self._left(states, positions, start, group)

        r = torch.arange(len(rows), device=device)[:, None]
        lengths = batch.lengths - batch.subject_last
        offsets = torch.arange(int(lengths.max()), device=device)
        # (r, q) columns of each segment; past a row's end they repeat the last, which is padding
        inside = (start[:, None] + offsets).clamp(max=states.shape[1] - 1)
        return Rows(
            segment=states[r, inside],
            lengths=lengths,
            position_ids=positions[r, inside],
            past_positions=past_positions,
            past=past,
            prediction=batch.prediction - batch.subject_last,
            targets=_targets(rows, int(lengths.max()), device),
            attention=self.attention,
        )

    def _lower_states(
        self, ids: torch.Tensor, positions: torch.Tensor, group: torch.Tensor
    ) -> torch.Tensor:
        """The states (r, t, d) that enter block ``first``, from ids and positions (r, t)."""
        taken: list[torch.Tensor] = []

        def take(module: Any, args: Any, named: Any, output: Any) -> None:
            entered = args[0] if args else named["hidden_states"]
            taken.append(entered if self.inside else block_output(output))

        hook = self.layers[self.low].register_forward_hook(take, with_kwargs=True)
        # keys and values (r, heads, c, head_dim) of the c leading tokens of each row's group
        past = self.leading.past_of(group, range(self.low + 1))
        mask = self.attention.mask(self.leading.positions(group), positions, self.view.base.dtype)
        with hooked(hook):
            self.lower(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                cache=GivenPast(past),
                use_cache=False,
            )
        return taken[0]

    def _left(
        self,
        states: torch.Tensor,
        positions: torch.Tensor,
        start: torch.Tensor,
        group: torch.Tensor,
    ) -> tuple[Past, torch.Tensor]:
        """Keys and values of the upper blocks left of ``start`` (r,), and their positions (r, s).

        ``states`` (r, t, d), ``positions`` (r, t).  s = c + w: leading tokens, then own ones.
        """
        leading = self.leading.positions(group)
        past = self.leading.past_of(group, range(self.first, len(self.layers)))
        # own tokens left of subject-last, in the row that has most of them
        w = int(start.max())
        if w == 0:
            return past, leading
        # only keys and values are needed: the last block's MLP runs at no place
        cache, none = GivenPast(past, keep=True), start.new_zeros(0)
        with self._last_mlp_at(none, none):
            self.upper(
                inputs_embeds=states[:, :w],
                attention_mask=self.attention.mask(leading, positions[:, :w], states.dtype),
                position_ids=positions[:, :w],
                cache=cache,
                use_cache=False,
            )
        inside = torch.arange(w, device=start.device) < start[:, None]
        own = torch.where(inside, positions[:, :w], NOWHERE)
        return cache.kept, torch.cat([leading, own], dim=1)

    def forward(
        self, rows: Rows, deltas: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Hidden states (r, q, d) after the final norm with the deltas (r, d) added.

        They are correct only where the head is read.  ``deltas`` are ``low`` and ``attention`` at
        subject-last, ``high`` at the prediction position.  Also the states (r, d) they were
        added to, by name, except for a ``low`` that is added to the first block's input.
        """
        x, rest = rows.segment, dict(deltas)
        seen: dict[str, torch.Tensor] = {}
        hooks = []
        if not self.inside:
            low = rest.pop("low", None)
            if low is not None:  # subject-last is the segment's first place
                x = torch.cat([x[:, :1] + low[:, None].to(x.dtype), x[:, 1:]], dim=1)
        for name, delta in rest.items():
            # (r,): the column of the segment that gets the vector
            place = rows.prediction if name == "high" else torch.zeros_like(rows.prediction)
            adding = _adding(seen, name, place, delta)
            hooks.append(self._site(name).register_forward_hook(adding))
        with hooked(*hooks), self._last_mlp_at(rows.read_row, rows.read_place):
            hidden = self.upper(
                inputs_embeds=x,
                attention_mask=rows.mask,
                position_ids=rows.position_ids,
                cache=GivenPast(rows.past),
                use_cache=False,
            ).last_hidden_state
        return hidden, seen

    def _site(self, name: str) -> Any:
        """The module to whose output the vector of this name is added."""
        family, model = self.view.base.family, self.view.model
        if name == "low":
            return family.mlp_out_of(model, self.low)
        if name == "attention":
            return family.attention_out_of(model, self.low)
        assert self.high is not None
        return self.layers[self.high]

    def _last_mlp_at(self, row: torch.Tensor, place: torch.Tensor) -> AbstractContextManager[None]:
        return mlp_only_at(self.view, len(self.layers) - 1, row, place)

    def log_probabilities(self, rows: Rows, hidden: torch.Tensor) -> torch.Tensor:
        """Log-probabilities (n, V), float32, at the n places where the head is read.

        ``hidden`` (r, q, d) is the result of ``forward``.
        """
        # (n, d): the head sees these places only
        states = hidden[rows.read_row, rows.read_place]
        logits = self.view.base.family.logits_of(self.view.model, states)
        return F.log_softmax(logits.float(), dim=-1)

    def target_nll(
        self, rows: Rows, hidden: torch.Tensor, margin: float | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean negative log-likelihood (r,) of the target tokens; whether all are arg-max (r,).

        ``hidden`` (r, q, d) is the result of ``forward``.  With ``margin`` a token is the arg-max
        only if it leads every other one by as many nats.
        """
        log_probabilities = self.log_probabilities(rows, hidden)
        # (n,)
        targets = rows.targets[rows.read_row, rows.read_place]
        losses = F.nll_loss(log_probabilities, targets, reduction="none")
        zeros = losses.new_zeros(len(hidden))  # (r,): sums by row of (n,) values per place
        counts = zeros.index_add(0, rows.read_row, torch.ones_like(losses))
        leading = log_probabilities.detach().argmax(dim=1) == targets
        if margin is not None:
            best, second = (
                log_probabilities.detach().topk(2, dim=1).values.unbind(dim=1)
            )  # (n,) each
            leading &= best - second >= margin
        hits = leading.to(losses.dtype)
        written = zeros.index_add(0, rows.read_row, hits) == counts
        return zeros.index_add(0, rows.read_row, losses) / counts, written


def _adding(
    seen: dict[str, torch.Tensor], name: str, place: torch.Tensor, delta: torch.Tensor
) -> Any:
    """A hook that adds ``delta`` (r, d) to a module's output at ``place`` (r,)."""

    def hook(module: Any, args: Any, output: Any) -> Any:
        hidden = block_output(output)
        r = torch.arange(len(hidden), device=hidden.device)
        seen[name] = hidden[r, place]
        # (r, t) one-hot, so that the sum is (r, t, d) with δ at one place of each row
        at = F.one_hot(place, hidden.shape[1]).to(hidden.dtype)
        return with_hidden(output, hidden + at[:, :, None] * delta[:, None].to(hidden.dtype))

    return hook


def _last_read(row: PromptTokens) -> int:
    """The last place at which the head is read: subject-last in a row without targets."""
    return row.prediction + row.n_target - 1 if row.n_target else row.subject_last


def _targets(rows: Sequence[PromptTokens], q: int, device: torch.device) -> torch.Tensor:
    """Ids to predict (r, q), counted from subject-last."""
    targets = torch.full((len(rows), q), NO_TARGET)
    for i, row in enumerate(rows):
        if row.n_target:
            # place j predicts the token after it, so targets begin at the prediction position
            at = row.prediction - row.subject_last
            targets[i, at : at + row.n_target] = torch.tensor(row.ids[row.prediction + 1 :])
    return targets.to(device)
