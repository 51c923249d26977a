"""Hyper-parameters of CrispEdit."""

from __future__ import annotations

from pydantic import Field

from jeep_core.editors.fine_tuning.hparams import FineTuningHParams
from jeep_core.spec.hparams import NonNegative
from jeep_core.spec.matrices import GradientOf, Measured


class CrispEditHParams(FineTuningHParams):
    """CrispEdit (ICML 2026): fine-tuning along directions in which the loss on text is flat."""

    energy: float = Field(
        0.9,
        gt=0,
        lt=1,
        description="γ: the share of the curvature whose directions are left as they are",
    )
    previous_weight: NonNegative = Field(
        1.0, description="How much a token of an earlier edit counts, in tokens of text"
    )

    @property
    def moment_layers(self) -> list[Measured]:
        """Keys, and gradients, of the layers."""
        return [*self.layers, *map(GradientOf, self.layers)]
