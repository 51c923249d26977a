"""``config.json`` and ``generation_config.json`` from the metadata of a GGUF file.

All that the file says of a model's shape is written, also what transformers would assume, so
that another release of transformers reads the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jeep_core.errors import UnsupportedModel
from jeep_core.models.gguf.blocks import numbers, raw
from jeep_core.models.gguf.dialects import EMBEDDING, FREQUENCIES, Dialect, tied
from jeep_core.models.gguf.reader import Gguf, damaged

Record = dict[str, Any]
_TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>")
"""Tokens that end a turn of a chat, where the chat template writes them."""
_LLAMA3 = {
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
"""How LLaMA 3.1 and its successors stretch positions, but for the factor."""
_LOCAL_THETA = 10_000.0
"""The base of the positions in Gemma 3's blocks with a window; files do not say it."""


class Shape:
    """Reads what a file says of its architecture: ``llama.block_count`` and the like."""

    def __init__(self, file: Gguf) -> None:
        self.file = file

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key, or ``default``.

        Raises:
            UnsupportedModel: the file has a value for each block, and they differ.
        """
        value = self.file.metadata.get(f"{self.file.architecture}.{key}", default)
        if isinstance(value, np.ndarray):
            if len(value) == 0 or (value != value[0]).any():
                raise UnsupportedModel(
                    f"{self.file.path} has blocks that differ ({key}: {value[:4].tolist()}…), "
                    "which no supported family has: take another model"
                )
            return value[0].item()
        return value

    def number(self, key: str) -> int:
        """A count of at least 1.

        Raises:
            UnsupportedModel: the file does not say it.
        """
        value = self.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise damaged(self.file.path, f"{self.file.architecture}.{key} is {value!r}")
        return value

    def real(self, key: str, default: float) -> float:
        """A number above 0 as it was meant: 1e-05, where float32 holds 9.999999747378752e-06.

        Raises:
            UnsupportedModel: the file says something else.
        """
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < np.inf:
            raise damaged(self.file.path, f"{self.file.architecture}.{key} is {value!r}")
        return float(f"{value:.7g}")

    def first(self, *keys: str) -> int | None:
        """The count that the first of the keys has that is there, or None."""
        return next((self.number(key) for key in keys if self.get(key) is not None), None)

    @property
    def heads(self) -> tuple[int, int]:
        """The numbers of heads of queries, and of keys and values."""
        queries = self.number("attention.head_count")
        return queries, self.first("attention.head_count_kv") or queries

    @property
    def head_size(self) -> int:
        """The width of a head."""
        own = self.first("attention.key_length", "rope.dimension_count")
        return own or self.number("embedding_length") // self.heads[0]


def config_of(file: Gguf, dialect: Dialect, dtype: str) -> Record:
    """``config.json`` of the folder.

    Raises:
        UnsupportedModel: a value is missing, or the model does something its family does not.
    """
    shape = Shape(file)
    if shape.get("expert_count"):
        raise UnsupportedModel(
            f"{file.path} is a mixture of experts, which cannot be edited: take a dense model"
        )
    embedding = file.tensors.get(EMBEDDING)
    if embedding is None or embedding.shape[-1] != shape.number("embedding_length"):
        raise damaged(file.path, f"{EMBEDDING} is not of the width that the metadata names")
    common: Record = {
        "architectures": [dialect.architecture],
        "model_type": dialect.model_type,
        "vocab_size": embedding.shape[0],
        "tie_word_embeddings": tied(file),
        "dtype": dtype,
        **_special_ids(file),
    }
    return {**common, **_FAMILIES[file.architecture](shape)}


def generation_of(file: Gguf) -> Record:
    """``generation_config.json``: also the tokens that end a turn end a text."""
    ids = _special_ids(file)
    tokens = file.metadata.get("tokenizer.ggml.tokens", [])
    template = str(file.metadata.get("tokenizer.chat_template", ""))
    ends = [ids.get("eos_token_id")]
    ends += [_id(file, name) for name in ("eot", "eom")]
    ends += [tokens.index(t) for t in _TURN_ENDS if t in template and t in tokens]
    found = list(dict.fromkeys(end for end in ends if end is not None))
    if found:
        ids["eos_token_id"] = found[0] if len(found) == 1 else found
    return {"do_sample": False, **ids}


def _special_ids(file: Gguf) -> Record:
    names = {"bos": "bos", "eos": "eos", "padding": "pad"}
    return {f"{to}_token_id": _id(file, name) for name, to in names.items()}


def _id(file: Gguf, name: str) -> int | None:
    """The id of the token that the file names for a role, or None."""
    found = file.metadata.get(f"tokenizer.ggml.{name}_token_id")
    n = file.tensors[EMBEDDING].shape[0]
    # -1 and the like stand for none
    return found if isinstance(found, int) and not isinstance(found, bool) and found < n else None


def _decoder(shape: Shape) -> Record:
    """The settings that LLaMA, Qwen and Gemma have in common."""
    heads, kv_heads = shape.heads
    return {
        "hidden_size": shape.number("embedding_length"),
        "intermediate_size": shape.number("feed_forward_length"),
        "num_hidden_layers": shape.number("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": shape.head_size,
        "max_position_embeddings": shape.number("context_length"),
        "rms_norm_eps": shape.real("attention.layer_norm_rms_epsilon", 1e-6),
        "rope_parameters": _rope(shape),
    }


def _llama(shape: Shape) -> Record:
    names = shape.file.tensors
    return {
        **_decoder(shape),
        "hidden_act": "silu",
        "attention_bias": "blk.0.attn_q.bias" in names,
        "mlp_bias": "blk.0.ffn_up.bias" in names,
    }


def _qwen2(shape: Shape) -> Record:
    return {**_decoder(shape), "hidden_act": "silu", "use_sliding_window": False}


def _qwen3(shape: Shape) -> Record:
    bias = "blk.0.attn_q.bias" in shape.file.tensors
    return {**_qwen2(shape), "attention_bias": bias}


def _gemma(shape: Shape) -> Record:
    return {**_decoder(shape), "hidden_act": "gelu_pytorch_tanh", "attention_bias": False}


def _gemma2(shape: Shape) -> Record:
    return {
        **_windowed(shape, every=2, scaled_by_width=46),
        "attn_logit_softcapping": shape.real("attn_logit_softcapping", 50.0),
        "final_logit_softcapping": shape.real("final_logit_softcapping", 30.0),
    }


def _gemma3(shape: Shape) -> Record:
    base = _windowed(shape, every=6, scaled_by_width=62)
    local = shape.real("rope.freq_base_swa", _LOCAL_THETA)
    base["rope_parameters"] = {
        "full_attention": base["rope_parameters"],
        "sliding_attention": {"rope_type": "default", "rope_theta": local},
    }
    capped = shape.get("final_logit_softcapping") is not None
    return {
        **base,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": shape.real("final_logit_softcapping", 0) if capped else None,
    }


def _windowed(shape: Shape, every: int, scaled_by_width: int) -> Record:
    """Gemma 2 and 3: every ``every``-th block sees the whole text.

    The model with ``scaled_by_width`` blocks divides attention by the width per head, the others
    by the width of a head.
    """
    layers = shape.number("block_count")
    kinds = [
        "full_attention" if i % every == 0 else "sliding_attention" for i in range(1, layers + 1)
    ]
    scalar = shape.head_size
    if layers == scaled_by_width:
        scalar = shape.number("embedding_length") // shape.heads[0]
    return {
        **_decoder(shape),
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": False,
        "query_pre_attn_scalar": scalar,
        "sliding_window": shape.number("attention.sliding_window"),
        "layer_types": kinds,
    }


def _gpt2(shape: Shape) -> Record:
    return {
        "n_embd": shape.number("embedding_length"),
        "n_inner": shape.number("feed_forward_length"),
        "n_layer": shape.number("block_count"),
        "n_head": shape.number("attention.head_count"),
        "n_positions": shape.number("context_length"),
        "layer_norm_epsilon": shape.real("attention.layer_norm_epsilon", 1e-5),
        "activation_function": "gelu_new",
    }


def _gpt_neox(shape: Shape) -> Record:
    heads, width = shape.number("attention.head_count"), shape.number("embedding_length")
    turned = shape.first("rope.dimension_count") or width // heads
    return {
        "hidden_size": width,
        "intermediate_size": shape.number("feed_forward_length"),
        "num_hidden_layers": shape.number("block_count"),
        "num_attention_heads": heads,
        "max_position_embeddings": shape.number("context_length"),
        "layer_norm_eps": shape.real("attention.layer_norm_epsilon", 1e-5),
        "use_parallel_residual": bool(shape.get("use_parallel_residual", True)),
        "hidden_act": "gelu",
        "attention_bias": True,
        "rope_parameters": {**_rope(shape), "partial_rotary_factor": turned / (width // heads)},
    }


_FAMILIES: Mapping[str, Callable[[Shape], Record]] = {
    "llama": _llama,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "gemma": _gemma,
    "gemma2": _gemma2,
    "gemma3": _gemma3,
    "gpt2": _gpt2,
    "gptneox": _gpt_neox,
}


def _rope(shape: Shape) -> Record:
    """How positions turn, stretched or not.

    Raises:
        UnsupportedModel: stretched in a way that is not known here.
    """
    theta = shape.real("rope.freq_base", 10_000.0)
    if FREQUENCIES in shape.file.tensors:
        return _llama3(shape, theta)
    kind = shape.get("rope.scaling.type", "none")
    if kind in ("none", ""):
        return {"rope_type": "default", "rope_theta": theta}
    factor = shape.real("rope.scaling.factor", 1.0)
    if kind == "linear":
        return {"rope_type": "linear", "rope_theta": theta, "factor": factor}
    if kind == "yarn":
        original = shape.number("rope.scaling.original_context_length")
        return {
            "rope_type": "yarn", "rope_theta": theta, "factor": factor,
            "original_max_position_embeddings": original,
        }  # fmt: skip
    raise UnsupportedModel(
        f"{shape.file.path} stretches its positions in a way ({kind!r}) that is not known here: "
        "take the model's original weights"
    )


def _llama3(shape: Shape, theta: float) -> Record:
    """LLaMA 3.1: the file has the factors on the wavelengths; check that the rule gives them."""
    entry = shape.file.tensors[FREQUENCIES]
    factors = numbers(raw(shape.file, entry), entry.kind).reshape(-1).astype(np.float64)
    factor = round(float(factors.max()), 4)
    found = {"rope_type": "llama3", "rope_theta": theta, "factor": factor, **_LLAMA3}
    expected = _llama3_factors(len(factors), theta, factor)
    if not np.allclose(factors, expected, rtol=1e-3):
        raise UnsupportedModel(
            f"{shape.file.path} stretches its positions by factors ({FREQUENCIES}) that are not "
            "those of LLaMA 3: take the model's original weights"
        )
    return found


def _llama3_factors(n: int, theta: float, factor: float) -> np.ndarray:
    """Factors (n,) on the wavelengths: 1 for short ones, ``factor`` for long ones."""
    low, high = _LLAMA3["low_freq_factor"], _LLAMA3["high_freq_factor"]
    turns = _LLAMA3["original_max_position_embeddings"] / (
        2 * np.pi * theta ** (np.arange(n) / n)
    )  # how often a pair turns within the original length
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    return np.asarray(1 / ((1 - smooth) / factor + smooth))
