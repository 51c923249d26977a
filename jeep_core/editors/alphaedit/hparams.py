"""Hyper-parameters of AlphaEdit."""

from __future__ import annotations

from pydantic import model_validator

from jeep_core.spec.hparams import LowRegionHParams


class AlphaEditHParams(LowRegionHParams):
    """AlphaEdit (Fang et al. 2025, arXiv 2410.02355): MEMIT written into the null space.

    ``low.moment_weight`` is the ridge (10 in the published settings).
    """

    @model_validator(mode="after")
    def _in_null_space(self) -> AlphaEditHParams:
        if self.low.null_space is None:
            raise ValueError("low.null_space must be given (0.02 in the published settings)")
        return self
