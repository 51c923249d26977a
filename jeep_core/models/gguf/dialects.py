"""llama.cpp's names of the tensors of each architecture, and how it rearranges them.

One row per architecture.  The names on the right are those of transformers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from jeep_core.errors import UnsupportedModel
from jeep_core.models.gguf.blocks import raw
from jeep_core.models.gguf.reader import Gguf, damaged

Rows = np.ndarray
"""Which row of the file's tensor (or element of a vector) comes where, (n,) integers."""

EMBEDDING, HEAD = "token_embd.weight", "output.weight"
FREQUENCIES = "rope_freqs.weight"
"""Factors on the wavelengths of the positions: not a weight, the configuration says the same."""


@dataclass(frozen=True)
class Dialect:
    """The tensors of an architecture.

    ``whole`` and ``block`` map llama.cpp's names to those of transformers, ``block`` after
    ``blk.N.`` and ``layers.N.``; those in ``optional`` (of a block) may be absent.
    ``pairs_rotated``: rows of the query and key projections are in the order in which
    neighbouring pairs are rotated, where transformers rotates one half against the other.
    ``gain_plus_one``: norms are stored as 1 + w.  ``transposed``: matrices that transformers
    stores as (in, out).  ``queries_first``: the rows of the fused projection are all queries,
    all keys, all values, where transformers has them head by head.
    """

    model_type: str
    architecture: str
    layers: str
    whole: Mapping[str, str]
    block: Mapping[str, str]
    optional: Mapping[str, str] = field(default_factory=dict)
    pairs_rotated: bool = False
    gain_plus_one: bool = False
    transposed: tuple[str, ...] = ()
    queries_first: bool = False


@dataclass(frozen=True)
class Tensor:
    """One tensor of the folder: its name there and in the file, and what is done to it."""

    name: str
    source: str
    rows: Rows | None = None
    minus_one: bool = False
    transposed: bool = False


def _with_bias(names: Mapping[str, str]) -> dict[str, str]:
    return {f"{a}.{part}": f"{b}.{part}" for a, b in names.items() for part in ("weight", "bias")}


def _weights(names: Mapping[str, str]) -> dict[str, str]:
    return {f"{a}.weight": f"{b}.weight" for a, b in names.items()}


def _biases(names: Mapping[str, str]) -> dict[str, str]:
    return {f"{a}.bias": f"{b}.bias" for a, b in names.items()}


_MODEL = _weights({"token_embd": "model.embed_tokens", "output_norm": "model.norm"})
_QKV = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj"}
_ATTENTION = {**_QKV, "attn_output": "self_attn.o_proj"}
_MLP = {"ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
_NORMS = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
_HEAD_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
_FOUR_NORMS = {
    "attn_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}

DIALECTS: Mapping[str, Dialect] = {
    "llama": Dialect(
        "llama", "LlamaForCausalLM", "model.layers", _MODEL,
        _weights({**_ATTENTION, **_MLP, **_NORMS}),
        optional=_biases({**_ATTENTION, **_MLP}),
        pairs_rotated=True,
    ),
    "qwen2": Dialect(
        "qwen2", "Qwen2ForCausalLM", "model.layers", _MODEL,
        {**_weights({**_ATTENTION, **_MLP, **_NORMS}), **_biases(_QKV)},
    ),
    "qwen3": Dialect(
        "qwen3", "Qwen3ForCausalLM", "model.layers", _MODEL,
        _weights({**_ATTENTION, **_MLP, **_NORMS, **_HEAD_NORMS}),
        optional=_biases(_ATTENTION),
    ),
    "gemma": Dialect(
        "gemma", "GemmaForCausalLM", "model.layers", _MODEL,
        _weights({**_ATTENTION, **_MLP, **_NORMS}),
        gain_plus_one=True,
    ),
    "gemma2": Dialect(
        "gemma2", "Gemma2ForCausalLM", "model.layers", _MODEL,
        _weights({**_ATTENTION, **_MLP, **_FOUR_NORMS}),
        gain_plus_one=True,
    ),
    "gemma3": Dialect(
        "gemma3_text", "Gemma3ForCausalLM", "model.layers", _MODEL,
        _weights({**_ATTENTION, **_MLP, **_FOUR_NORMS, **_HEAD_NORMS}),
        gain_plus_one=True,
    ),
    "gpt2": Dialect(
        "gpt2", "GPT2LMHeadModel", "transformer.h",
        {
            **_weights({"token_embd": "transformer.wte", "position_embd": "transformer.wpe"}),
            **_with_bias({"output_norm": "transformer.ln_f"}),
        },
        _with_bias(
            {
                "attn_norm": "ln_1", "attn_qkv": "attn.c_attn", "attn_output": "attn.c_proj",
                "ffn_norm": "ln_2", "ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj",
            }
        ),
        transposed=("attn_qkv", "attn_output", "ffn_up", "ffn_down"),
    ),
    "gptneox": Dialect(
        "gpt_neox", "GPTNeoXForCausalLM", "gpt_neox.layers",
        {
            **_weights({"token_embd": "gpt_neox.embed_in"}),
            **_with_bias({"output_norm": "gpt_neox.final_layer_norm"}),
        },
        _with_bias(
            {
                "attn_norm": "input_layernorm", "attn_qkv": "attention.query_key_value",
                "attn_output": "attention.dense", "ffn_norm": "post_attention_layernorm",
                "ffn_up": "mlp.dense_h_to_4h", "ffn_down": "mlp.dense_4h_to_h",
            }
        ),
        queries_first=True,
    ),
}  # fmt: skip
_BLOCK = re.compile(r"blk\.(\d+)\.(.+)")


def dialect_of(file: Gguf) -> Dialect:
    """The row of the file's architecture.

    Raises:
        UnsupportedModel: there is none, or the file holds a part of a model only.
    """
    name = file.architecture
    if name in DIALECTS:
        return DIALECTS[name]
    known = ", ".join(DIALECTS)
    said = f"is a GGUF of the architecture {name!r}" if name else "names no architecture"
    raise UnsupportedModel(
        f"{file.path} {said}, and these can be converted: {known}; take another model, or its "
        "original weights if its family is supported"
    )


def plan(file: Gguf, dialect: Dialect, n_layers: int, heads: tuple[int, int]) -> list[Tensor]:
    """The tensors of the folder, in the order of the model.

    ``heads`` are the numbers of heads of queries and of keys and values.

    Raises:
        UnsupportedModel: a tensor is missing, is not known, or has sizes that do not fit.
    """
    wanted = dict(dialect.whole)
    for layer in range(n_layers):
        names = {**dialect.block, **dialect.optional}
        wanted |= {f"blk.{layer}.{a}": f"{dialect.layers}.{layer}.{b}" for a, b in names.items()}
    if HEAD in file.tensors and not tied(file):
        wanted[HEAD] = "lm_head.weight"
    present = {source: name for source, name in wanted.items() if source in file.tensors}
    missing = [s for s in wanted if s not in present and _suffix(s) not in dialect.optional]
    unknown = [s for s in file.tensors if s not in wanted and s not in (HEAD, FREQUENCIES)]
    if missing or unknown:
        what = f"lacks {missing[0]}" if missing else f"holds {unknown[0]}"
        more = len(missing or unknown) - 1
        raise UnsupportedModel(
            f"{file.path} {what}{f' and {more} more' if more else ''}, which does not fit the "
            f"architecture {file.architecture!r} with {n_layers} layers: take another file of "
            "this model"
        )
    return [_tensor(file, dialect, source, name, heads) for source, name in present.items()]


def tied(file: Gguf) -> bool:
    """Whether the head is the embedding: not there, or the same bytes once more."""
    head, embedding = file.tensors.get(HEAD), file.tensors.get(EMBEDDING)
    if head is None or embedding is None:
        return True
    same_kind = (head.kind, head.shape) == (embedding.kind, embedding.shape)
    return same_kind and np.array_equal(raw(file, head), raw(file, embedding))


def _tensor(file: Gguf, dialect: Dialect, source: str, name: str, heads: tuple[int, int]) -> Tensor:
    suffix = _suffix(source)
    part, _, _ = suffix.rpartition(".")
    rows: Rows | None = None
    if dialect.pairs_rotated and part in ("attn_q", "attn_k"):
        rows = _rows(file, source, _halves, heads[part == "attn_k"])
    elif dialect.queries_first and part == "attn_qkv":
        rows = _rows(file, source, _by_head, heads[0])
    return Tensor(
        name,
        source,
        rows=rows,
        minus_one=dialect.gain_plus_one and part.endswith("_norm"),
        transposed=part in dialect.transposed and suffix.endswith(".weight"),
    )


def _rows(file: Gguf, source: str, order: Callable[[int, int], Rows], n_heads: int) -> Rows:
    n = file.tensors[source].shape[0]
    try:
        return order(n, n_heads)
    except (ValueError, ZeroDivisionError):
        raise damaged(
            file.path, f"{source} has {n} rows, which {n_heads} heads cannot share"
        ) from None


def _halves(n: int, n_heads: int) -> Rows:
    """From pairs (2i, 2i + 1) of each head to halves (i, i + d/2)."""
    return np.arange(n).reshape(n_heads, n // n_heads // 2, 2).swapaxes(1, 2).reshape(-1)


def _by_head(n: int, n_heads: int) -> Rows:
    """From all queries, all keys, all values to the three of each head."""
    return np.arange(n).reshape(3, n_heads, n // n_heads // 3).swapaxes(0, 1).reshape(-1)


def _suffix(source: str) -> str:
    """The name within a block, or the whole name outside of blocks."""
    found = _BLOCK.fullmatch(source)
    return found[2] if found else source
