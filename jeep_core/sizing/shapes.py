"""Shapes of well-known models, for plans without their files: configurations, no weights.

The numbers are those of the models' published configurations; what is not needed for counting is
left out.  A name here is no model that can be loaded or had.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Record = Mapping[str, Any]


def _llama(d: int, d_ff: int, layers: int, heads: int, kv_heads: int, vocabulary: int) -> Record:
    return {
        "model_type": "llama",
        "hidden_size": d,
        "intermediate_size": d_ff,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocabulary,
        "max_position_embeddings": 131_072,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
    }


def _gemma3(
    d: int, d_ff: int, layers: int, heads: int, kv_heads: int, size: int, words: int
) -> Record:
    return {
        "model_type": "gemma3_text",
        "hidden_size": d,
        "intermediate_size": d_ff,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": size,
        "vocab_size": words,
        "max_position_embeddings": 131_072,
        "tie_word_embeddings": True,
        "dtype": "bfloat16",
    }


SHAPES: Mapping[str, Record] = {
    "smollm2-135m": {
        **_llama(576, 1536, 30, 9, 3, 49_152), "tie_word_embeddings": True,
        "max_position_embeddings": 8192,
    },
    "gemma3-270m": _gemma3(640, 2048, 18, 4, 1, 256, 262_144),
    "llama-3.2-1b": {**_llama(2048, 8192, 16, 32, 8, 128_256), "tie_word_embeddings": True},
    "gpt-j-6b": {
        "model_type": "gptj", "n_embd": 4096, "n_layer": 28, "n_head": 16, "n_positions": 2048,
        "vocab_size": 50_400, "tie_word_embeddings": False, "dtype": "float16",
    },
    "llama-7b": {
        **_llama(4096, 11_008, 32, 32, 32, 32_000), "max_position_embeddings": 2048,
        "dtype": "float16",
    },
    "llama-3.1-8b": _llama(4096, 14_336, 32, 32, 8, 128_256),
    "gemma-3-27b": _gemma3(5376, 21_504, 62, 32, 16, 128, 262_208),
    "llama-3.1-70b": _llama(8192, 28_672, 80, 64, 8, 128_256),
}  # fmt: skip
"""Configurations by name: ``gemma-3-27b`` is the text part."""
SIZES = {"1B": "llama-3.2-1b", "8B": "llama-3.1-8b", "27B": "gemma-3-27b", "70B": "llama-3.1-70b"}
"""The examples of the documentation."""
