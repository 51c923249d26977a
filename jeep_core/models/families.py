"""One row per model family: where its parts are.

Everything else in the library asks these rows; nothing tests for a model's name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from jeep_core.errors import UnsupportedModel
from jeep_core.spec.matrices import AttentionOut, Place, layer_of


@dataclass(frozen=True)
class Family:
    """Module paths: ``backbone`` is relative to the model, ``final_norm`` to the backbone,
    ``mlp_out`` and ``attention_out``, the output projections, to a block.

    ``parallel``: whether attention and MLP of a block both read what enters it; in some
    families the configuration says so.

    ``absolute_positions`` is the backbone's module that adds position embeddings to the input,
    if the family has one.  ``window`` says which blocks attend only to the last
    ``config.sliding_window`` tokens: all of them, or those that ``config.layer_types`` names.
    ``norm_after_mlp`` and ``norm_after_attention`` are the block's RMS norms (gain 1 + weight)
    between the MLP or the attention and the residual stream.  ``soft_cap`` names the
    configuration's bound c on logits, x → c·tanh(x/c).  ``part_of`` is the model type of the
    multimodal models whose text part is of this family.
    """

    name: str
    model_type: str
    backbone: str
    layers: str
    mlp_out: str
    attention_out: str
    absolute_positions: str | None = None
    window: Literal["none", "every block", "by block"] = "none"
    norm_after_mlp: str | None = None
    norm_after_attention: str | None = None
    soft_cap: str | None = None
    final_norm: str = "norm"
    parallel: Literal["never", "always", "use_parallel_residual"] = "never"
    part_of: str | None = None

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

    def attention_out_of(self, model: nn.Module, layer: int) -> nn.Module:
        """The attention's output projection in block ``layer``."""
        return self.layers_of(model)[layer].get_submodule(self.attention_out)

    def mlp_of(self, model: nn.Module, layer: int) -> nn.Module:
        """The MLP of block ``layer``; it acts on every position alone."""
        return self.layers_of(model)[layer].get_submodule(self.mlp_out.rpartition(".")[0])

    def projection_of(self, model: nn.Module, place: Place) -> nn.Module:
        """The output projection at ``place``, the MLP's or the attention's."""
        attention = isinstance(place, AttentionOut)
        return (self.attention_out_of if attention else self.mlp_out_of)(model, layer_of(place))

    def norm_after(self, model: nn.Module, place: Place) -> Any:
        """The norm between the projection at ``place`` and the residual stream, or None."""
        attention = isinstance(place, AttentionOut)
        name = self.norm_after_attention if attention else self.norm_after_mlp
        return None if name is None else self.layers_of(model)[layer_of(place)].get_submodule(name)

    def final_norm_of(self, model: nn.Module) -> Any:
        """The norm between the last block and the head."""
        return self.backbone_of(model).get_submodule(self.final_norm)

    def is_parallel(self, model: Any) -> bool:
        """Whether attention and MLP of a block both read what enters the block."""
        if self.parallel == "use_parallel_residual":
            return bool(model.config.use_parallel_residual)
        return self.parallel == "always"

    def logits_of(self, model: Any, hidden: torch.Tensor) -> torch.Tensor:
        """The model's logits (…, vocabulary) of states (…, d) after the final norm."""
        logits: torch.Tensor = model.get_output_embeddings()(hidden)
        cap = getattr(model.config, self.soft_cap) if self.soft_cap else None
        return logits if cap is None else torch.tanh(logits / cap) * cap

    def weight_name(self, place: Place) -> str:
        """Parameter name of the output projection at ``place``."""
        path = self.attention_out if isinstance(place, AttentionOut) else self.mlp_out
        return f"{self.backbone}.{self.layers}.{layer_of(place)}.{path}.weight"


FAMILIES: tuple[Family, ...] = (
    Family(
        "GPT-2",
        "gpt2",
        "transformer",
        "h",
        "mlp.c_proj",
        "attn.c_proj",
        absolute_positions="wpe",
        final_norm="ln_f",
    ),
    Family(
        "GPT-J",
        "gptj",
        "transformer",
        "h",
        "mlp.fc_out",
        "attn.out_proj",
        final_norm="ln_f",
        parallel="always",
    ),
    Family(
        "GPT-NeoX/Pythia",
        "gpt_neox",
        "gpt_neox",
        "layers",
        "mlp.dense_4h_to_h",
        "attention.dense",
        final_norm="final_layer_norm",
        parallel="use_parallel_residual",
    ),
    Family("LLaMA", "llama", "model", "layers", "mlp.down_proj", "self_attn.o_proj"),
    Family(
        "Mistral",
        "mistral",
        "model",
        "layers",
        "mlp.down_proj",
        "self_attn.o_proj",
        window="every block",
    ),
    Family(
        "Qwen 2", "qwen2", "model", "layers", "mlp.down_proj", "self_attn.o_proj", window="by block"
    ),
    Family(
        "Qwen 3", "qwen3", "model", "layers", "mlp.down_proj", "self_attn.o_proj", window="by block"
    ),
    Family("Gemma 1", "gemma", "model", "layers", "mlp.down_proj", "self_attn.o_proj"),
    Family(
        "Gemma 2",
        "gemma2",
        "model",
        "layers",
        "mlp.down_proj",
        "self_attn.o_proj",
        window="by block",
        norm_after_mlp="post_feedforward_layernorm",
        norm_after_attention="post_attention_layernorm",
        soft_cap="final_logit_softcapping",
    ),
    Family(
        "Gemma 3 (text)",
        "gemma3_text",
        "model",
        "layers",
        "mlp.down_proj",
        "self_attn.o_proj",
        window="by block",
        norm_after_mlp="post_feedforward_layernorm",
        norm_after_attention="post_attention_layernorm",
        soft_cap="final_logit_softcapping",
        part_of="gemma3",
    ),
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
    if getattr(config, "use_bidirectional_attention", None):
        raise UnsupportedModel(
            f"a model whose attention looks ahead cannot be edited; supported: {supported}"
        )
    return family_of_type(config.model_type)


def family_of_type(model_type: object) -> Family:
    """The family of a configuration's ``model_type``.

    Raises:
        UnsupportedModel: there is none.
    """
    for family in FAMILIES:
        if family.model_type == model_type:
            return family
    supported = ", ".join(family.name for family in FAMILIES)
    raise UnsupportedModel(f"model type {model_type!r} is not one of: {supported}")


def is_transposed(module: nn.Module) -> bool:
    """Whether a projection stores its weight as (in, out), as GPT-2's ``Conv1D`` does."""
    return isinstance(module, Conv1D)
