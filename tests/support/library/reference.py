"""JEEP and MEMIT written plainly: one fact at a time, every row in full, hooks and torch's Adam.

Nothing of the library's computation is used here, only its tokenized rows and its objective.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import functional as F

from jeep_core.spec.positions import PromptTokens
from jeep_core.values.optimiser import FactTokens, Objective
from support.library import tiny


@dataclass
class Plain:
    """The outcome of one fact."""

    delta_low: torch.Tensor
    delta_high: torch.Tensor | None
    low: torch.Tensor
    high: torch.Tensor | None
    probability: float
    losses: list[float] = field(default_factory=list)


@contextmanager
def adding(model: Any, layer: int, place: int, delta: torch.Tensor | None) -> Iterator[list[Any]]:
    """Add ``delta`` to a block's output at one place; yields the output before the addition."""
    seen: list[torch.Tensor] = []

    def hook(module: Any, args: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        seen.append(hidden[0, place].detach().clone())
        if delta is None:
            return None
        changed = hidden.clone()
        changed[0, place] = hidden[0, place] + delta
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    handle = tiny.blocks(model)[layer].register_forward_hook(hook)
    try:
        yield seen
    finally:
        handle.remove()


def log_probabilities(model: Any, row: PromptTokens) -> torch.Tensor:
    return F.log_softmax(model(input_ids=torch.tensor([row.ids])).logits[0], dim=-1)


def optimise_one(model: Any, fact: FactTokens, o: Objective) -> Plain:
    """Paper eq. 8, 11 and 12 for one fact; with the rows of the first prefixes alone at first."""
    few = o.early_prefixes if o.n_steps > 1 else None
    rows = fact.rows[:few]
    empty, last_low = fact.rows[0], o.low.last
    last_high = o.high.last if o.high else last_low
    with (
        torch.no_grad(),
        adding(model, last_low, empty.subject_last, None) as low_seen,
        adding(model, last_high, empty.prediction, None) as high_seen,
    ):
        log_probabilities(model, empty)
    with torch.no_grad():
        kl_before = log_probabilities(model, fact.kl)[fact.kl.subject_last]
    h_low, h_high = low_seen[0], high_seen[0]
    low = torch.zeros_like(h_low, requires_grad=True)
    high = torch.zeros_like(h_high, requires_grad=True) if o.high else None
    adam = torch.optim.Adam([low] if high is None else [low, high], lr=o.learning_rate)
    losses: list[float] = []
    for step in range(o.n_steps):
        nlls, states = [], []
        for row in rows:
            with (
                adding(model, last_low, row.subject_last, low),
                adding(model, last_high, row.prediction, high) as seen,
            ):
                lp = log_probabilities(model, row)
            places = range(row.prediction, row.prediction + row.n_target)
            nlls.append(-torch.stack([lp[p, row.ids[p + 1]] for p in places]).mean())
            states.append(seen[0])
        with adding(model, last_low, fact.kl.subject_last, low):
            kl_after = log_probabilities(model, fact.kl)[fact.kl.subject_last]
        nll = torch.stack(nlls)
        loss = nll.mean() + o.kl_weight * (kl_after.exp() * (kl_after - kl_before)).sum()
        loss = loss + o.low.weight_decay * low.norm() / h_low.norm() ** 2
        if o.high and high is not None:
            loss = loss + o.high.weight_decay * high.norm() / h_high.norm() ** 2
        losses.append(float(loss.detach()))
        probability = float(nll.detach().neg().exp().mean())
        stop = o.stop_probability
        if stop is not None and len(rows) < len(fact.rows):
            stop = 2 * stop / (1 + stop)
        stops = stop is not None and probability >= stop
        stops = stops or (o.stop_loss is not None and losses[-1] < o.stop_loss)
        if len(rows) < len(fact.rows):
            if stops or step + 1 >= o.n_steps // 2:
                rows = fact.rows
            if stops:
                continue
        elif stops or step == o.n_steps - 1:
            break
        adam.zero_grad()
        loss.backward()
        adam.step()
        with torch.no_grad():
            _project(low, o.low.clamp * h_low.norm())
            if o.high and high is not None:
                _project(high, o.high.clamp * h_high.norm())
    start = h_high if o.high_target == "literal" else states[0]
    return Plain(
        low.detach(),
        None if high is None else high.detach(),
        h_low + low.detach(),
        None if high is None else start + high.detach(),
        probability,
        losses,
    )


def _project(delta: torch.Tensor, limit: torch.Tensor) -> None:
    if delta.norm() > limit:
        delta.mul_(limit / delta.norm())


def key_and_state(
    model: Any, rows: list[PromptTokens], name: str, layer: int, last: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Key of ``layer``, averaged over prefixes in two stages, and state of ``last`` (no prefix)."""
    keys, states = [], []
    for row in rows:
        taken: list[torch.Tensor] = []
        handle = tiny.mlp_out(model, layer).register_forward_hook(
            lambda m, args, output, taken=taken: taken.append(args[0])
        )
        with adding(model, last, getattr(row, name), None) as seen, torch.no_grad():
            model(input_ids=torch.tensor([row.ids]))
        handle.remove()
        keys.append(taken[0].reshape(len(row.ids), -1)[getattr(row, name)])
        states.append(seen[0])
    key = keys[0] if len(keys) == 1 else 0.5 * keys[0] + 0.5 * torch.stack(keys[1:]).mean(0)
    return key, states[0]
