"""Hyper-parameters of editors that fine-tune in passes over all facts; needs no torch."""

from __future__ import annotations

from pydantic import Field

from jeep_core.spec.hparams import LayersHParams, Positive


class FineTuningHParams(LayersHParams):
    """Adam on a few matrices, in passes over all facts, mini-batch by mini-batch."""

    learning_rate: Positive = 5e-4
    n_passes: int = Field(25, ge=1, le=1000, description="Passes over all facts, at most")
    batch_facts: int = Field(32, ge=1, description="Facts per mini-batch")
    stop_loss: Positive = Field(
        1e-2, description="The edit ends after a pass with a mean cross-entropy below"
    )
    end_of_text: bool = Field(
        True,
        description="Whether the token that ends a text, or a turn of a chat, is learned after the "
        "answer",
    )
    seed: int = Field(0, ge=0, description="Of the order of facts and mini-batches")
