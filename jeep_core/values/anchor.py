"""Value vectors brought to one norm, so that a long row of edits does not make them grow.

v is what the MLP of the low region's last block gives at the subject's last token: what it adds to
the state, or, where the vector is optimised at the MLP's projection, what that puts out.  With v₀
before and v* = v₀ + δ, v* is brought to the norm ρ that sample edits of the base model have; a v*
of more than 2ρ is no value that the model would give, and v₀ is kept (norm anchoring, arXiv
2602.02543).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from jeep_core.models.views import ModelView
from jeep_core.values.objective import FactTokens, Objective, Values
from jeep_core.values.reader import RegionReader

FARTHEST = 2.0
"""Norms of ρ beyond which v₀ is kept."""
DROPPED = 0.05
"""Share of the sample edits, those of the largest norms, that do not count in ρ."""


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


def anchored(values: Values, before: torch.Tensor, rho: float) -> Values:
    """Values whose low vectors bring v to the norm ρ, with v₀ ``before`` (m, d).

    The states to reach follow, those of a second context by the same vector; high vectors stay.
    """
    wanted = before + values.delta_low
    # (m, 1)
    length = wanted.norm(dim=1, keepdim=True)
    scaled = wanted * (rho / length.clamp_min(1e-30)) - before
    delta = torch.where(length > FARTHEST * rho, torch.zeros_like(scaled), scaled)
    moved = delta - values.delta_low
    return replace(
        values,
        low=values.low + moved,
        delta_low=delta,
        chat_low=None if values.chat_low is None else values.chat_low + moved,
    )
