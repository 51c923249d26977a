"""Small GGUF files as llama.cpp writes them, from random models; written with the package gguf."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind
from gguf.quants import dequantize, quantize
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer, sentencepiece_model_pb2
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from support.library import tiny

WINDOW = {"sliding_window": 5, "query_pre_attn_scalar": 12}
SHAPES: Mapping[str, Mapping[str, Any]] = {
    "llama": tiny.ROTARY,
    "qwen2": tiny.ROTARY,
    "qwen3": tiny.WIDE_HEADS,
    "gemma": tiny.WIDE_HEADS,
    "gemma2": {
        **tiny.WIDE_HEADS, **WINDOW, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 4.0,
    },
    "gemma3_text": {**tiny.WIDE_HEADS, **WINDOW, "num_hidden_layers": 6},
    "gpt2": {**tiny.GPT, "n_inner": 96},
    "gpt_neox": {k: v for k, v in tiny.ROTARY.items() if k != "num_key_value_heads"},
}  # fmt: skip
FAMILIES = tuple(SHAPES)
ROWS = 448
"""Rows of the embedding; the vocabularies have fewer tokens."""

_ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "gemma": gguf.MODEL_ARCH.GEMMA,
    "gemma2": gguf.MODEL_ARCH.GEMMA2,
    "gemma3_text": gguf.MODEL_ARCH.GEMMA3,
    "gpt2": gguf.MODEL_ARCH.GPT2,
    "gpt_neox": gguf.MODEL_ARCH.GPTNEOX,
}
Change = Callable[[gguf.GGUFWriter], object]


def random_model(family: str, **changes: Any) -> Any:
    """A random model of transformers, every parameter of it different from its start."""
    values = {**SHAPES[family], **changes}
    config = AutoConfig.for_model(
        family, **values, vocab_size=ROWS, initializer_range=0.2, bos_token_id=1, eos_token_id=2,
        pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or "norm" in name or "ln_" in name:
            nn.init.normal_(parameter, mean=0.1, std=0.3)
    return model


@cache
def sentencepiece(prefix: bool) -> SentencePieceProcessor:
    """A small model of SentencePiece: LLaMA's kind with a ``prefix``, else Gemma's.

    Gemma's has pieces that are found before anything is merged, runs of spaces among them.
    """
    file = BytesIO()
    whole = [] if prefix else ["▁▁", "▁▁▁", "\n", "<table>"]
    SentencePieceTrainer.train(
        sentence_iterator=iter(tiny.TEXTS), model_writer=file, vocab_size=420, model_type="bpe",
        byte_fallback=True, unk_id=0, bos_id=1, eos_id=2, pad_id=-1, add_dummy_prefix=prefix,
        remove_extra_whitespaces=False, normalization_rule_name="identity", minloglevel=2,
        user_defined_symbols=whole,
    )  # fmt: skip
    return SentencePieceProcessor(model_proto=file.getvalue())


def add_sentencepiece(writer: gguf.GGUFWriter, prefix: bool) -> None:
    """A vocabulary of the kind ``llama``."""
    proto = sentencepiece_model_pb2.ModelProto.FromString(
        sentencepiece(prefix).serialized_model_proto()
    )
    types = [piece.type for piece in proto.pieces]
    # llama.cpp keeps runs of spaces as they are in a text
    texts = [p.piece.replace("▁", " ") if p.type == 4 else p.piece for p in proto.pieces]
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(texts)
    writer.add_token_scores([piece.score for piece in proto.pieces])
    writer.add_token_types(types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_space_prefix(prefix)


def add_byte_level(
    writer: gguf.GGUFWriter, pre: str | None, more: Mapping[str, int] | None = None
) -> None:
    """A vocabulary of the kind ``gpt2``; ``more`` are further tokens and their types."""
    model = json.loads(tiny.tokenizer("byte-level").to_str())["model"]
    tokens = [*sorted(model["vocab"], key=model["vocab"].get), *(more or {})]
    types = [3 if token == "<|endoftext|>" else 1 for token in tokens]
    writer.add_tokenizer_model("gpt2")
    if pre is not None:
        writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([(more or {}).get(t, k) for t, k in zip(tokens, types, strict=True)])
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_eos_token_id(0)


def write(
    path: Path,
    family: str,
    model: Any,
    kind: Kind = Kind.F32,
    vocabulary: Change | None = None,
    change: Change | None = None,
    leave_out: Sequence[str] = (),
) -> dict[str, torch.Tensor]:
    """Write a model's file; the tensors that it holds, under the names of transformers.

    ``vocabulary`` adds a tokenizer other than the family's, ``change`` other metadata and
    tensors; tensors in ``leave_out`` (llama.cpp's names) are not written.
    """
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[_ARCHITECTURES[family]])
    _add_shape(writer, family, model.config)
    spaces = family.startswith("gemma") or family == "llama"
    pre = {"gpt2": "gpt-2", "gpt_neox": "olmo"}.get(family, "qwen2")
    if vocabulary is not None:
        vocabulary(writer)
    elif spaces:
        add_sentencepiece(writer, prefix=family == "llama")
    else:
        add_byte_level(writer, pre)
    names = gguf.get_tensor_name_map(_ARCHITECTURES[family], model.config.num_hidden_layers)
    held: dict[str, torch.Tensor] = {}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        own = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert own is not None, name
        stored = kind if tensor.ndim == 2 else Kind.F32
        values, back = _as_stored(family, model.config, name, tensor.numpy())
        if values.shape[-1] % gguf.GGML_QUANT_SIZES[stored][0]:
            stored = Kind.F16
        data = quantize(values, stored)
        held[name] = torch.from_numpy(np.ascontiguousarray(back(dequantize(data, stored))))
        if own not in leave_out:
            writer.add_tensor(own, data, raw_dtype=stored)
    if change is not None:
        change(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return held


def _add_shape(writer: gguf.GGUFWriter, family: str, config: Any) -> None:
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    inner = config.n_inner if family == "gpt2" else config.intermediate_size
    writer.add_feed_forward_length(inner)
    writer.add_head_count(config.num_attention_heads)
    if family == "gpt2":
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        return
    if family == "gpt_neox":
        writer.add_layer_norm_eps(config.layer_norm_eps)
        writer.add_rope_dimension_count(2)
        writer.add_parallel_residual(config.use_parallel_residual)
        return
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    width = getattr(config, "head_dim", None) or 8
    if family == "llama":
        writer.add_rope_dimension_count(width)
    elif family != "qwen2":
        writer.add_key_length(width)
        writer.add_value_length(width)
    rope = config.rope_parameters
    rope = rope.get("full_attention", rope)
    writer.add_rope_freq_base(rope["rope_theta"])
    if family in ("gemma2", "gemma3_text"):
        writer.add_sliding_window(config.sliding_window)
    if family == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)


def _as_stored(
    family: str, config: Any, name: str, values: np.ndarray
) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """A tensor as llama.cpp stores it, and the way back from there."""
    heads = config.num_attention_heads
    if family == "llama" and (".q_proj." in name or ".k_proj." in name):
        n = heads if ".q_proj." in name else config.num_key_value_heads
        shape = (n, 2, len(values) // n // 2, -1)
        turned = values.reshape(shape).swapaxes(1, 2)

        def back(found: np.ndarray) -> np.ndarray:
            return found.reshape(turned.shape).swapaxes(1, 2).reshape(values.shape)

        return turned.reshape(values.shape), back
    if family == "gpt_neox" and "query_key_value" in name:
        shape = (heads, 3, len(values) // heads // 3, -1)
        fused = values.reshape(shape).swapaxes(0, 1)

        def apart(found: np.ndarray) -> np.ndarray:
            return found.reshape(fused.shape).swapaxes(0, 1).reshape(values.shape)

        return fused.reshape(values.shape), apart
    if family.startswith("gemma") and "norm" in name:
        return values + np.float32(1), lambda found: found - np.float32(1)
    if family == "gpt2" and values.ndim == 2 and ".h." in name:
        return np.ascontiguousarray(values.T), lambda found: found.T
    return values, lambda found: found
