"""One row per model family: where its parts are.

Everything else in the library asks these rows; nothing tests for a model's name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from jeep_core.errors import UnsupportedModel


@dataclass(frozen=True)
class Family:
    """Module paths: ``backbone`` and ``mlp_out`` are relative to the model and to a block.

    ``absolute_positions`` is the backbone's module that adds position embeddings to the input,
    if the family has one.
    """

    name: str
    model_type: str
    backbone: str
    layers: str
    mlp_out: str
    absolute_positions: str | None = None

    def backbone_of(self, model: nn.Module) -> Any:
        """The decoder without its head."""
        return model.get_submodule(self.backbone)

    def layers_of(self, model: nn.Module) -> nn.ModuleList:
        """The decoder blocks."""
        layers = self.backbone_of(model).get_submodule(self.layers)
        assert isinstance(layers, nn.ModuleList)
        return layers

    def mlp_out_of(self, model: nn.Module, layer: int) -> nn.Module:
        """The MLP's output projection in block ``layer``: keys go in, values come out."""
        return self.layers_of(model)[layer].get_submodule(self.mlp_out)

    def mlp_of(self, model: nn.Module, layer: int) -> nn.Module:
        """The MLP of block ``layer``; it acts on every position alone."""
        return self.layers_of(model)[layer].get_submodule(self.mlp_out.rpartition(".")[0])

    def weight_name(self, layer: int) -> str:
        """Parameter name of the MLP output projection of block ``layer``."""
        return f"{self.backbone}.{self.layers}.{layer}.{self.mlp_out}.weight"


FAMILIES: tuple[Family, ...] = (
    Family("GPT-J", "gptj", "transformer", "h", "mlp.fc_out"),
    Family("GPT-2", "gpt2", "transformer", "h", "mlp.c_proj", absolute_positions="wpe"),
    Family("LLaMA", "llama", "model", "layers", "mlp.down_proj"),
)


def family_of(config: Any) -> Family:
    """The family of a model configuration.

    Raises:
        UnsupportedModel: quantised weights or an unknown architecture.
    """
    supported = ", ".join(family.name for family in FAMILIES)
    if getattr(config, "quantization_config", None) is not None:
        raise UnsupportedModel(
            "quantised weights cannot be edited; load float32, bfloat16 or float16 weights "
            f"of one of: {supported}"
        )
    for family in FAMILIES:
        if family.model_type == config.model_type:
            return family
    raise UnsupportedModel(f"model type {config.model_type!r} is not one of: {supported}")


def is_transposed(module: nn.Module) -> bool:
    """Whether a projection stores its weight as (in, out), as GPT-2's ``Conv1D`` does."""
    return isinstance(module, Conv1D)
