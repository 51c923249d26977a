"""Hyper-parameters of AlphaEdit."""

from __future__ import annotations

from pydantic import Field, model_validator

from jeep_core.spec.hparams import LowRegionHParams, Positive, Region


class AlphaEditRegion(Region):
    """A region that is written in the null space of the second moment."""

    null_space: Positive | None = Field(
        default=None,
        description="Write only where eigenvalues of the second moment are below this "
        "(AlphaEdit); moment_weight then is the ridge on what is left",
    )


class AlphaEditHParams(LowRegionHParams):
    """AlphaEdit (Fang et al. 2024, arXiv 2410.02355): MEMIT written into the null space.

    ``low.moment_weight`` is the ridge (10 in the published settings).
    """

    low: AlphaEditRegion

    @model_validator(mode="after")
    def _in_null_space(self) -> AlphaEditHParams:
        if self.low.null_space is None:
            raise ValueError("low.null_space must be given (0.02 in the published settings)")
        return self
