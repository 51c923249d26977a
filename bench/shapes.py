"""Random LLaMA models of the shapes that people edit, and a tiny one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from jeep_core import atlas
from jeep_core.models.loading import LoadedModel, load, wrap

TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
SOURCE = "atlas-llama"


@dataclass(frozen=True)
class Shape:
    """Layers, hidden size, d_ff, attention heads, heads of keys and values, logits."""

    layers: int
    hidden: int
    mlp: int
    heads: int
    kv_heads: int
    vocabulary: int

    def config(self) -> LlamaConfig:
        """As transformers has it, with the special tokens of the bundled tokenizer."""
        return LlamaConfig(
            num_hidden_layers=self.layers, hidden_size=self.hidden, intermediate_size=self.mlp,
            num_attention_heads=self.heads, num_key_value_heads=self.kv_heads,
            vocab_size=self.vocabulary, max_position_embeddings=2048, tie_word_embeddings=False,
            bos_token_id=0, eos_token_id=0, pad_token_id=0,
        )  # fmt: skip


SHAPES = {
    "tiny": Shape(6, 64, 128, 4, 2, 1024),
    "1b": Shape(16, 2048, 8192, 32, 8, 32_000),
    "7b": Shape(32, 4096, 11_008, 32, 32, 32_000),
}


def random_model(name: str, device: str, dtype: torch.dtype) -> LoadedModel:
    """A model of a shape with random weights, ready for edits; its tokens are the bundled ones."""
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model: Any = LlamaForCausalLM(SHAPES[name].config())
    finally:
        torch.set_default_dtype(before)
    return wrap(f"random-{name}", model.eval().requires_grad_(False), load(SOURCE).tokenizer)


def save(model: LoadedModel, folder: Path) -> Path:
    """A folder that ``jeep serve --model`` takes."""
    model.model.save_pretrained(folder)
    for name in TOKENIZER:
        (folder / name).write_bytes((atlas.MODELS[SOURCE] / name).read_bytes())
    return folder
