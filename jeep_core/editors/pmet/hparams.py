"""Hyper-parameters of PMET."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from jeep_core.spec.hparams import (
    LowRegionHParams,
    NonNegative,
    Positive,
    Region,
    Spread,
)


class PmetRegion(Region):
    """A region whose residual is spread by the square root."""

    spread: Spread = "sqrt"


class PmetHParams(LowRegionHParams):
    """PMET (Li et al. 2024, arXiv 2308.08742): vectors at both projections, the MLP's written.

    A fact also stops when every target token is the arg-max and the weighted KL is at most
    0.01; while they are, the likelihood counts ``written_weight`` only.
    """

    low: PmetRegion
    # Newton's step would be taken by both vectors, and only one of them is written: it then lacks
    # what the other one has taken over
    optimizer: Literal["adam"] = "adam"
    n_steps: int = Field(30, ge=1, le=1000, description="Forward passes, the last only measures")
    learning_rate: Positive = 0.2
    kl_weight: NonNegative = 1.0
    written_weight: NonNegative = 0.1
