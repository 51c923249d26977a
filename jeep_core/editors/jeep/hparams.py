"""Hyper-parameters of JEEP."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from jeep_core.spec.hparams import OptimisedEditorHParams, Region, Spread
from jeep_core.spec.matrices import AttentionOut, Place


class JeepLowRegion(Region):
    """JEEP's low region: the residual is spread by the square root, as in PMET."""

    spread: Spread = "sqrt"


class JeepHighRegion(Region):
    """JEEP's high region."""

    projection: Literal["mlp", "attention"] = Field(
        "mlp", description="The output projection that is written (table 4 of the paper)"
    )

    @property
    def places(self) -> list[Place]:
        """The matrices that are written, in order."""
        if self.projection == "mlp":
            return list(self.layers)
        return [AttentionOut(layer) for layer in self.layers]


class JeepHParams(OptimisedEditorHParams):
    """JEEP: a low region at the subject's last token, a high one at the prediction position.

    ``optimise``: both vectors together, one alone, or ``separately``: the low one, the low
    region written, then the high one on the edited model.  ``write``: the regions written, by
    default those optimised.  ``high_target`` is the value the high region is written to: the
    state of the model at the optimum, or (the literal reading of the paper) the unedited state
    plus δ*.
    """

    low: JeepLowRegion
    high: JeepHighRegion
    n_steps: int = Field(30, ge=1, le=1000, description="Forward passes, the last only measures")
    stop_probability: float = Field(0.9, gt=0, le=1)
    high_target: Literal["at_optimum", "literal"] = "at_optimum"
    optimise: Literal["together", "separately", "low", "high"] = "together"
    write: Literal["both", "low", "high"] | None = None

    @model_validator(mode="after")
    def _low_below_high(self) -> JeepHParams:
        if self.high.layers[0] <= self.low.last:
            raise ValueError("the high region must lie above the low region")
        if self.optimise in ("low", "high") and self.write not in (None, self.optimise):
            raise ValueError(f"write must be {self.optimise!r}: nothing else is optimised")
        if self.optimise == "separately" and self.write not in (None, "both"):
            raise ValueError("what is optimised separately is written in both regions")
        return self

    @property
    def written(self) -> list[str]:
        """The regions that are written, in order."""
        if self.write in ("low", "high"):
            return [self.write]
        return [self.optimise] if self.optimise in ("low", "high") else ["low", "high"]

    @property
    def regions(self) -> dict[str, Region]:
        """Low first, then high."""
        return {"low": self.low, "high": self.high}
