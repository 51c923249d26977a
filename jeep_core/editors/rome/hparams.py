"""Hyper-parameters of ROME."""

from __future__ import annotations

from dataclasses import replace

from pydantic import Field

from jeep_core.errors import FieldProblem
from jeep_core.spec.hparams import NonNegative, OptimisedEditorHParams, Positive, Region


class RomeHParams(OptimisedEditorHParams):
    """ROME (Meng et al. 2022, arXiv 2202.05262): one layer, a fact at a time, rank one."""

    layer: int = Field(ge=0)
    clamp: Positive = Field(4.0, description="γ: ‖δ‖ ≤ γ‖MLP output‖")
    weight_decay: NonNegative = 0.5
    n_steps: int = Field(20, ge=1, le=1000, description="Forward passes, the last only measures")
    n_prefixes: int = Field(21, ge=1, le=64, description="The empty prefix counts as one")
    stop_loss: Positive = 0.05

    @property
    def low(self) -> Region:
        """The layer as a region."""
        return Region(
            layers=(self.layer,),
            clamp=self.clamp,
            weight_decay=self.weight_decay,
            moment_weight=1.0,
        )

    @property
    def regions(self) -> dict[str, Region]:
        """The one region."""
        return {"low": self.low}

    def layer_problems(self, n_layers: int) -> list[FieldProblem]:
        """The layer must exist, with one above it."""
        return [replace(p, pointer="/layer") for p in super().layer_problems(n_layers)]
