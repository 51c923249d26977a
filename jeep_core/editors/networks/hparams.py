"""Hyper-parameters that all editors with a trained network share; needs no torch."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, ClassVar

from pydantic import Field, field_validator

from jeep_core.errors import FieldProblem
from jeep_core.spec.hparams import InContexts, Positive, no_such_layer


class HypernetworkHParams(InContexts):
    """Hyper-parameters of the editors with a trained network; the network must fit them."""

    both_for_chats: ClassVar[bool] = False
    """Networks are trained on plain prompts."""
    last_written: ClassVar[int] = 3
    """How many of a model's last MLPs the editor's paper writes."""

    layers: tuple[Annotated[int, Field(ge=0)], ...] = Field(min_length=1)
    rank: int = Field(1920, ge=1, description="Rank of the network's matrices")
    n_blocks: int = Field(2, ge=1, le=8, description="Residual blocks of the network")
    step_scale: Positive = Field(1.0, description="Multiplies the learned step sizes")

    @field_validator("layers")
    @classmethod
    def _ascending(cls, layers: tuple[int, ...]) -> tuple[int, ...]:
        if any(b <= a for a, b in pairwise(layers)):
            raise ValueError("layers must be ascending and distinct, such as [3, 4, 6]")
        return layers

    @classmethod
    def last_layers(cls, n_layers: int) -> list[int]:
        """The layers of the editor's paper in a model of ``n_layers``: the last ones."""
        return list(range(max(n_layers - cls.last_written, 0), n_layers))

    def layer_problems(self, n_layers: int) -> list[FieldProblem]:
        """The first layer that does not exist."""
        missing = [layer for layer in self.layers if layer >= n_layers]
        return [no_such_layer("/layers", layer, n_layers) for layer in missing[:1]]
