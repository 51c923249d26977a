"""Value vectors brought to one norm, so that a long row of edits does not make them grow.

v is what the MLP of the low region's last block gives at the subject's last token: what it adds to
the state, or, where the vector is optimised at the MLP's projection, what that puts out.  With v₀
before and v* = v₀ + δ, v* is brought to the norm ρ that sample edits of the base model have; a v*
of more than 2ρ is no value that the model would give, and v₀ is kept (norm anchoring, arXiv
2602.02543).  Not in the paper: v* may be brought to a multiple of ρ; the limit stays at 2ρ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from jeep_core.models.views import ModelView
from jeep_core.text.counting import counted
from jeep_core.values.objective import FactTokens, Objective, Values
from jeep_core.values.reader import RegionReader

FARTHEST = 2.0
"""Multiples of ρ beyond which v₀ is kept."""
DROPPED = 0.05
"""Share of the sample edits, those of the largest norms, that do not count in ρ."""


@dataclass(frozen=True)
class TypicalNorm:
    """``rho``, ρ of the base model, and the multiple of it that ‖v*‖ is brought to."""

    rho: float
    factor: float = 1.0


@torch.no_grad()
def contributions(
    view: ModelView, facts: Sequence[FactTokens], objective: Objective
) -> torch.Tensor:
    """v₀ (m, d) of the facts in this version, float32, in the first context."""
    last, family = objective.low.last, view.base.family
    rows = [fact.rows for fact in facts]
    # the projection's outputs
    found = RegionReader(view, rows, "subject_last", last, at_projection=True).states()
    norm = family.norm_after(view.model, last) if objective.low_site == "block" else None
    if norm is not None:
        there = found.to(norm.weight.device, view.base.dtype)
        found = norm(there).float().to(view.base.device)
    return found


def typical_norm(lengths: torch.Tensor) -> float:
    """ρ: the mean of ‖v*‖ (m,) without the largest twentieth."""
    kept = lengths.sort().values[: max(1, len(lengths) - int(DROPPED * len(lengths)))]
    return float(kept.mean())


def anchored(values: Values, before: torch.Tensor, norm: TypicalNorm) -> Values:
    """Values whose low vectors bring v to the norm that is wanted, with v₀ ``before`` (m, d).

    The states to reach follow, those of a second context by the same vector; high vectors stay.
    What is left at v₀ and what was changed is said by ``left_out`` and ``changed``.
    """
    wanted = before + values.delta_low
    # (m, 1)
    length = wanted.norm(dim=1, keepdim=True)
    scaled = wanted * (norm.factor * norm.rho / length.clamp_min(1e-30)) - before
    # by ρ itself: a small multiple asks for short vectors, not for fewer facts
    too_far = length > FARTHEST * norm.rho
    delta = torch.where(too_far, torch.zeros_like(scaled), scaled)
    moved = delta - values.delta_low
    return replace(
        values,
        low=values.low + moved,
        delta_low=delta,
        chat_low=None if values.chat_low is None else values.chat_low + moved,
        left_out=too_far.squeeze(1),
        changed=(moved != 0).any(dim=1),
    )


def anchor_warnings(values: Values | None) -> tuple[str, ...]:
    """A warning for the user where facts have kept v₀, as their v* was too long."""
    if values is None or values.left_out is None:
        return ()
    count, facts = int(values.left_out.sum()), len(values.left_out)
    if not count:
        return ()
    return (
        f"norm_anchor left {count} of {counted(facts, 'fact')} as the model has them: the value "
        f"found at the subject was more than {FARTHEST:g} times as long as those of sample edits; "
        "a smaller clamp or learning_rate, or fewer steps, give shorter ones; or leave "
        "norm_anchor out",
    )
