"""Hyper-parameters of UltraEdit."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from jeep_core.spec.hparams import LayersHParams, Positive

DOUBLINGS = 5
"""How often a search makes the first step larger, or smaller."""
HALVINGS = 2
"""Bisections of the last doubling, by ratio: the step is within a fifth of the smallest one."""


class UltraEditHParams(LayersHParams):
    """UltraEdit (Gu et al., TMLR 2026): one pass for gradients, one linear system per layer.

    Gradients are standardised by means and deviations over all facts that were edited so far,
    which are a part of the version.
    """

    step_size: Positive = Field(
        1e-6, description="η: a token's output is to move by -η‖ĥ‖²ĝ, both standardised"
    )
    target_probability: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Take, in place of step_size, about the smallest step with which the facts' "
        "answers that do not have this probability yet have it on average, found by forward passes "
        "over 128 of them at most; default: step_size",
    )
    n_prefixes: int = Field(
        1, ge=1, le=64, description="Texts that a fact is asked after; the empty one counts as one"
    )
    compute_dtype: Literal["model", "bfloat16"] = Field(
        "model", description="Type of the matrix products of the passes; systems are float64"
    )

    @property
    def tries(self) -> int:
        """Forward passes that look for the step, at most, after one over all facts."""
        return 0 if self.target_probability is None else 1 + DOUBLINGS + HALVINGS

    @property
    def prefix_count(self) -> int:
        """All of them."""
        return self.n_prefixes
