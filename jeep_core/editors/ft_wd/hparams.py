"""Hyper-parameters of FT-WD."""

from __future__ import annotations

from math import exp, log
from typing import Literal

from pydantic import Field

from jeep_core.errors import FieldProblem
from jeep_core.spec.hparams import InContexts, NonNegative, Positive, no_such_layer

DECAY_EXPONENT, DECAY_SCALE = -0.87028798, 0.15589562


class FtWdHParams(InContexts):
    """FT-WD: Adam on one MLP output projection, with soft weight decay and early stopping.

    Soft weight decay adds ``weight_decay`` · W to the gradient before Adam (an L2 penalty, no
    bound on how far a weight may move as in Zhu et al. 2020).  The coefficient falls with the
    number of facts m: exp(0.1559) · m^-0.8703, as in the fine-tuning baseline that MEMIT's
    authors released.  ``decay_towards`` "start" penalises W - W_start instead of W.
    """

    layer: int = Field(ge=0, description="The layer that is tuned")
    n_steps: int = Field(25, ge=1, le=1000, description="Passes over all facts")
    learning_rate: Positive = 5e-4
    weight_decay: NonNegative | None = Field(
        None, description="Default: a power law in the number of facts"
    )
    decay_towards: Literal["zero", "start"] = "zero"
    stop_loss: Positive = Field(
        1e-2, description="Mini-batches below are passed over; a mean below ends the edit"
    )
    batch_facts: int = Field(64, ge=1, description="Facts per mini-batch")

    def decay(self, n_facts: int) -> float:
        """The coefficient for this many facts."""
        if self.weight_decay is not None:
            return self.weight_decay
        return exp(DECAY_EXPONENT * log(n_facts) + DECAY_SCALE)

    def layer_problems(self, n_layers: int) -> list[FieldProblem]:
        """A layer that does not exist."""
        return [] if self.layer < n_layers else [no_such_layer("/layer", self.layer, n_layers)]
