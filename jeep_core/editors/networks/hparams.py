"""Hyper-parameters that all editors with a trained network share; needs no torch."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from jeep_core.spec.hparams import LayersHParams, Positive


class HypernetworkHParams(LayersHParams):
    """Hyper-parameters of the editors with a trained network; the network must fit them."""

    both_for_chats: ClassVar[bool] = False
    """Networks are trained on plain prompts."""
    last_written: ClassVar[int] = 3
    """How many of a model's last MLPs the editor's paper writes."""

    rank: int = Field(1920, ge=1, description="Rank of the network's matrices")
    n_blocks: int = Field(2, ge=1, le=8, description="Residual blocks of the network")
    step_scale: Positive = Field(1.0, description="Multiplies the learned step sizes")

    @classmethod
    def last_layers(cls, n_layers: int) -> list[int]:
        """The layers of the editor's paper in a model of ``n_layers``: the last ones."""
        return list(range(max(n_layers - cls.last_written, 0), n_layers))
