"""Hyper-parameters of UltraEdit."""

from __future__ import annotations

from pydantic import Field

from jeep_core.spec.hparams import LayersHParams, Positive


class UltraEditHParams(LayersHParams):
    """UltraEdit (Gu et al., TMLR 2026): one pass for gradients, one linear system per layer.

    Gradients are standardised by means and deviations over all facts that were edited so far,
    which are a part of the version.
    """

    step_size: Positive = Field(
        1e-6, description="η: a token's output is to move by -η‖ĥ‖²ĝ, both standardised"
    )
    n_prefixes: int = Field(
        1, ge=1, le=64, description="Texts that a fact is asked after; the empty one counts as one"
    )

    @property
    def prefix_count(self) -> int:
        """All of them."""
        return self.n_prefixes
