"""One row per model family: where its parts are, and how it differs from the others.

Everything else in the library asks these rows; nothing tests for a model's name.  A new family is
a new row, as long as these fields can describe it (``docs/extending.md``).  The table needs no
torch: what a model takes is counted from it before anything is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jeep_core.errors import UnsupportedModel
from jeep_core.models.checkpoints.advice import save_text_part
from jeep_core.models.contents import (
    GEMMA,
    GEMMA_2,
    GEMMA_3,
    GPT2,
    GPT_J,
    GPT_NEOX,
    Contents,
)
from jeep_core.spec.matrices import AttentionOut, Place, layer_of

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class Family:
    """Module paths: ``backbone`` is relative to the model, ``final_norm`` to the backbone,
    ``mlp_out`` and ``attention_out``, the output projections, to a block.

    ``parallel``: whether attention and MLP of a block both read what enters it; in some
    families the configuration says so.

    ``absolute_positions`` is the backbone's module that adds position embeddings to the input,
    if the family has one.  ``window`` says which blocks attend only to the last
    ``config.sliding_window`` tokens: all of them, or those whose kind in ``config.layer_types``
    is one of ``windowed_kinds``; blocks of ``full_kinds`` attend to all tokens before theirs.
    ``norm_after_mlp`` and ``norm_after_attention`` are the block's RMS norms between the MLP or
    the attention and the residual stream; their gain is ``norm_gain_offset`` + weight, and
    ``norm_epsilon`` names the configuration's ε.  ``soft_cap`` names the configuration's bound c
    on logits, x → c·tanh(x/c).  ``part_of`` is the model type of the multimodal models whose text
    part is of this family, ``text_class`` the class in transformers that holds the text part.
    ``contents`` says which weights the blocks hold, for counting them.
    """

    name: str
    model_type: str
    backbone: str
    layers: str
    mlp_out: str
    attention_out: str
    absolute_positions: str | None = None
    window: Literal["none", "every block", "by block"] = "none"
    windowed_kinds: tuple[str, ...] = ("sliding_attention",)
    full_kinds: tuple[str, ...] = ("full_attention",)
    norm_after_mlp: str | None = None
    norm_after_attention: str | None = None
    norm_gain_offset: float = 0.0
    norm_epsilon: str = "rms_norm_eps"
    soft_cap: str | None = None
    final_norm: str = "norm"
    parallel: Literal["never", "always", "use_parallel_residual"] = "never"
    part_of: str | None = None
    text_class: str = ""
    contents: Contents = field(default_factory=Contents)

    def backbone_of(self, model: nn.Module) -> Any:
        """The decoder without its head."""
        return model.get_submodule(self.backbone)

    def layers_of(self, model: nn.Module) -> nn.ModuleList:
        """The decoder blocks."""
        layers: nn.ModuleList = self.backbone_of(model).get_submodule(self.layers)
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

    def attention_of(self, model: nn.Module, layer: int) -> nn.Module:
        """The attention of block ``layer``."""
        name = self.attention_out.rpartition(".")[0]
        return self.layers_of(model)[layer].get_submodule(name)

    def projection_of(self, model: nn.Module, place: Place) -> nn.Module:
        """The output projection at ``place``, the MLP's or the attention's."""
        attention = isinstance(place, AttentionOut)
        return (self.attention_out_of if attention else self.mlp_out_of)(model, layer_of(place))

    def norm_after(self, model: nn.Module, place: Place) -> Any:
        """The norm between the projection at ``place`` and the residual stream, or None."""
        attention = isinstance(place, AttentionOut)
        name = self.norm_after_attention if attention else self.norm_after_mlp
        return None if name is None else self.layers_of(model)[layer_of(place)].get_submodule(name)

    def norm_gain(self, norm: Any) -> torch.Tensor:
        """The gain (d,), float32, of a norm that ``norm_after`` gave."""
        gain: torch.Tensor = self.norm_gain_offset + norm.weight.float()
        return gain

    def norm_epsilon_of(self, model: Any) -> float:
        """The ε that is added to mean squares in the norms that ``norm_after`` gives."""
        return float(getattr(model.config, self.norm_epsilon))

    def windows_of(self, config: Any) -> dict[str, int | None]:
        """How many tokens each kind of block attends to; None: all.  Empty: blocks are of one kind.

        Raises:
            UnsupportedModel: the configuration names a kind that this row does not know.
        """
        if self.window != "by block":
            return {}
        known = dict.fromkeys(self.full_kinds) | dict.fromkeys(
            self.windowed_kinds, config.sliding_window
        )
        kinds = sorted(set(config.layer_types))
        for kind in kinds:
            if kind not in known:
                raise UnsupportedModel(
                    f"layer_types of a {self.name} names {kind!r}; blocks that can be edited are "
                    f"of the kinds {', '.join(sorted(known))}"
                )
        return {kind: known[kind] for kind in kinds}

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
        return logits if cap is None else (logits / cap).tanh() * cap

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
        contents=GPT2,
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
        contents=GPT_J,
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
        contents=GPT_NEOX,
    ),
    Family(
        "LLaMA",
        "llama",
        "model",
        "layers",
        "mlp.down_proj",
        "self_attn.o_proj",
        contents=Contents(
            mlp_bias="mlp_bias", qkv_bias="attention_bias", out_bias="attention_bias"
        ),
    ),
    Family(
        "Mistral",
        "mistral",
        "model",
        "layers",
        "mlp.down_proj",
        "self_attn.o_proj",
        window="every block",
        contents=Contents(defaults={"num_key_value_heads": 8}),
    ),
    Family(
        "Qwen 2",
        "qwen2",
        "model",
        "layers",
        "mlp.down_proj",
        "self_attn.o_proj",
        window="by block",
        contents=Contents(qkv_bias=True, defaults={"num_key_value_heads": 32}),
    ),
    Family(
        "Qwen 3",
        "qwen3",
        "model",
        "layers",
        "mlp.down_proj",
        "self_attn.o_proj",
        window="by block",
        contents=Contents(
            qkv_bias="attention_bias",
            out_bias="attention_bias",
            head_norms=True,
            defaults={"num_key_value_heads": 32, "head_dim": 128},
        ),
    ),
    Family(
        "Gemma 1",
        "gemma",
        "model",
        "layers",
        "mlp.down_proj",
        "self_attn.o_proj",
        norm_gain_offset=1.0,
        contents=GEMMA,
    ),
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
        norm_gain_offset=1.0,
        soft_cap="final_logit_softcapping",
        contents=GEMMA_2,
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
        norm_gain_offset=1.0,
        soft_cap="final_logit_softcapping",
        part_of="gemma3",
        text_class="Gemma3ForCausalLM",
        contents=GEMMA_3,
    ),
)


def family_of(config: Any) -> Family:
    """The family of a model configuration.

    Raises:
        UnsupportedModel: quantised weights, attention that looks ahead, blocks of an unknown kind,
            or an unknown architecture.
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
    family = family_of_type(config.model_type)
    family.windows_of(config)
    return family


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


def refuse_reader_of_images(folder: Path | str, model_type: object) -> None:
    """Refuse a model that reads images, too, whose text part is of a family here.

    Raises:
        UnsupportedModel: says how its text part is saved.
    """
    for family in FAMILIES:
        if family.part_of == model_type:
            raise UnsupportedModel(
                f"{folder} also reads images (model type {model_type!r}), and only text "
                f"models can be edited: {save_text_part(Path(folder), family.text_class)}"
            )


def is_transposed(module: nn.Module) -> bool:
    """Whether a projection stores its weight as (in, out), as GPT-2's ``Conv1D`` does.

    Recognised by the name of its class, so that this table needs no torch.
    """
    return type(module).__name__ == "Conv1D"
