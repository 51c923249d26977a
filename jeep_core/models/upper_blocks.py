"""The part of a model that a value vector can still change, run over lines of texts.

``UpperStack`` holds the blocks above layer ``low``.  A text is entered at its subject's last
token with the hidden state of block ``low``; keys and values to its left are given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch.nn import functional as F

from jeep_core.models.lines import (
    NO_TARGET,
    NO_TEXT,
    LinePast,
    Lines,
    chosen_columns,
    leading_past,
    states_at,
    token_lines,
)
from jeep_core.models.masks import NOWHERE, Attention
from jeep_core.models.token_rows import GivenPast, Leading, leading_of
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


class UpperStack:
    """The blocks above ``low`` of a view, with a place to add a vector at block ``high``.

    ``groups`` are all texts that will be captured: group j those that are the j-th of their
    facts, which share their beginnings.  With ``inside``, block ``low`` itself is the first of
    the blocks, entered with its input, and vectors are added to the outputs of its projections.
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
    def capture(self, facts: Sequence[Sequence[PromptTokens]]) -> Lines:
        """Run the k texts of n facts once, unedited, and keep what no later step changes.

        The lower blocks run over every token after the leading ones, the upper blocks only
        over those left of the subject's last token.  The last target token is never read.
        """
        base = self.view.base
        tokens = token_lines(facts, self.leading.lengths, base.max_positions, base.device)
        states = self._lower_states(tokens.ids, tokens.texts, tokens.positions)  # (n, t, d)
        left = ~tokens.starts & (tokens.texts != NO_TEXT)
        past = self._left(states, tokens.texts, tokens.positions, left)
        # (n, q): columns from each text's subject-last on
        columns, real = chosen_columns(tokens.starts)

        def cut(values: torch.Tensor, padding: int | bool) -> torch.Tensor:
            return torch.where(real, values.gather(1, columns), padding)

        return Lines(
            segment=states_at(states, columns),
            texts=cut(tokens.texts, NO_TEXT),
            positions=cut(tokens.positions, 0),
            targets=cut(tokens.targets, NO_TARGET),
            first=cut(tokens.first, False),
            prediction=cut(tokens.prediction, False),
            past=past,
            attention=self.attention,
        )

    def _lower_states(
        self, ids: torch.Tensor, texts: torch.Tensor, positions: torch.Tensor
    ) -> torch.Tensor:
        """The states (n, t, d) that enter block ``first``, from ids, texts, positions (n, t)."""
        taken: list[torch.Tensor] = []

        def take(module: Any, args: Any, named: Any, output: Any) -> None:
            entered = args[0] if args else named["hidden_states"]
            taken.append(entered if self.inside else block_output(output))

        hook = self.layers[self.low].register_forward_hook(take, with_kwargs=True)
        past = leading_past(self.leading, len(ids), range(self.low + 1), ids.device)
        with hooked(hook):
            self.lower(
                input_ids=ids,
                attention_mask=self._mask(past, texts, positions),
                position_ids=positions,
                cache=GivenPast(past.states),
                use_cache=False,
            )
        return taken[0].to(ids.device)

    def _left(
        self,
        states: torch.Tensor,
        texts: torch.Tensor,
        positions: torch.Tensor,
        left: torch.Tensor,
    ) -> LinePast:
        """Keys and values of the upper blocks of the tokens in ``left`` (n, t), and leading ones.

        ``states`` (n, t, d), ``texts`` and ``positions`` (n, t).
        """
        layers = range(self.first, len(self.layers))
        past = leading_past(self.leading, len(states), layers, states.device)
        # (n, w): columns of the tokens left of their text's subject-last
        columns, real = chosen_columns(left)
        if columns.shape[1] == 0:
            return past
        own, texts = positions.gather(1, columns), texts.gather(1, columns)
        texts = torch.where(real, texts, NO_TEXT)
        # only keys and values are needed: the last block's MLP runs at no place
        cache, none = GivenPast(past.states, keep=True), columns.new_zeros(0)
        with self._last_mlp_at(none, none):
            self.upper(
                inputs_embeds=states_at(states, columns),
                attention_mask=self._mask(past, texts, own),
                position_ids=own,
                cache=cache,
                use_cache=False,
            )
        return LinePast(
            cache.kept,
            torch.cat([past.texts, texts], dim=1),
            torch.cat([past.positions, torch.where(real, own, NOWHERE)], dim=1),
        )

    def _mask(self, past: LinePast, texts: torch.Tensor, own: torch.Tensor) -> Any:
        """The mask of tokens at positions ``own`` (n, q) of ``texts`` (n, q) after ``past``."""
        dtype = self.view.base.dtype
        return self.attention.mask(past.positions, own, dtype, (past.texts, texts))

    def forward(
        self, lines: Lines, deltas: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Hidden states (n, q, d) after the final norm with the deltas (n, d) added.

        They are correct only where the head is read.  ``deltas`` are ``low`` and ``attention`` at
        each text's subject-last, ``high`` at the prediction position of texts with a target.  Also
        the states (n, k, d) they were added to, by name.
        """
        x, rest = lines.segment, dict(deltas)
        seen: dict[str, torch.Tensor] = {}
        hooks = []
        if not self.inside:
            low = rest.pop("low", None)
            if low is not None:
                seen["low"] = lines.at_first(x)
                x = _added(x, lines.first, low)
        for name, delta in rest.items():
            hooks.append(self._site(name).register_forward_hook(_adding(seen, name, lines, delta)))
        with hooked(*hooks), self._last_mlp_at(lines.read_line, lines.read_place):
            hidden = self.upper(
                inputs_embeds=x,
                attention_mask=lines.mask,
                position_ids=lines.positions,
                cache=GivenPast(lines.past.states),
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

    def _last_mlp_at(self, line: torch.Tensor, place: torch.Tensor) -> AbstractContextManager[None]:
        return mlp_only_at(self.view, len(self.layers) - 1, line, place)

    def log_probabilities(self, lines: Lines, hidden: torch.Tensor) -> torch.Tensor:
        """Log-probabilities (m, V), float32, at the m places where the head is read.

        ``hidden`` (n, q, d) is the result of ``forward``.
        """
        # (m, d): the head sees these places only
        states = hidden[lines.read_line, lines.read_place]
        logits = self.view.base.family.logits_of(self.view.model, states)
        return F.log_softmax(logits.float(), dim=-1)


def _added(hidden: torch.Tensor, places: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
    """``hidden`` (n, q, d) with ``delta`` (n, d) added at the marked places (n, q) of each line."""
    return hidden + places[:, :, None].to(hidden.dtype) * delta[:, None].to(hidden.dtype)


def _adding(seen: dict[str, torch.Tensor], name: str, lines: Lines, delta: torch.Tensor) -> Any:
    """A hook that adds ``delta`` (n, d) to a module's output at the places of ``name``."""

    def hook(module: Any, args: Any, output: Any) -> Any:
        hidden = block_output(output)
        high = name == "high"
        # what is optimised lies beside the head, the block perhaps elsewhere
        seen[name] = lines.at_prediction(hidden) if high else lines.at_first(hidden)
        places, there = lines.prediction if high else lines.first, hidden.device
        return with_hidden(output, _added(hidden, places.to(there), delta.to(there)))

    return hook
