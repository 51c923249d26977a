"""Models with hand-planted answers: who lives where, and at which layer the answer appears.

Prompts are ``<name> lives in`` and ``the home of <name> is``.  The MLP of block ``enriched``
writes the home's direction B at every name; attention of the next block, which looks at all
tokens alike, moves B to a direction C that the head does not read; the MLP of block ``promoted``
turns C into the home's own direction D.  All other blocks add nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM

from jeep_core.models.loading import LoadedModel, wrap
from jeep_core.spec.facts import Fact

NAMES = [f"name{i}" for i in range(12)]
HOMES = [f"home{i}" for i in range(4)]
TEMPLATES = ("{} lives in", "the home of {} is")
WORDS = ["<unk>", "lives", "in", "the", "home", "of", "is", *NAMES, *HOMES]
LAYERS = 8
WIDTH = 64
A, B, C, D, ONE = 0, 12, 16, 20, 24
STRONG = 40.0


def home_of(name: int) -> int:
    return name % len(HOMES)


def facts(tokens: int = 1) -> list[Fact]:
    """Every name in both templates; the new home is the next one.

    ``tokens`` up to 3: as many names of the same home make a subject, so that each carries a part
    of the answer.
    """
    found = []
    for i in range(len(NAMES)):
        names = [NAMES[(i + len(HOMES) * k) % len(NAMES)] for k in range(tokens)]
        old, new = home_of(i), (home_of(i) + 1) % len(HOMES)
        found += [Fact(" ".join(names), template, HOMES[new], HOMES[old]) for template in TEMPLATES]
    return found


def model(family: str, enriched: int, promoted: int) -> LoadedModel:
    """``llama``, whose blocks are sequential, or ``gptj``, whose blocks are parallel."""
    sizes = {
        "llama": {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": LAYERS,
                  "num_attention_heads": 1, "num_key_value_heads": 1},
        "gptj": {"n_embd": WIDTH, "n_inner": 32, "n_layer": LAYERS, "n_head": 1,
                 "rotary_dim": 4, "n_positions": 64},
    }[family]  # fmt: skip
    more = {"max_position_embeddings": 64} if family == "llama" else {}
    config = AutoConfig.for_model(
        family, **sizes, **more, vocab_size=len(WORDS), tie_word_embeddings=False,
        bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    made: Any = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    for name, parameter in made.named_parameters():
        if "norm" not in name and "ln_" not in name:
            parameter.zero_()
    body = made.model if family == "llama" else made.transformer
    blocks = body.layers if family == "llama" else body.h
    _embed((body.embed_tokens if family == "llama" else body.wte).weight, made.lm_head.weight)
    steps = [(A + i, B + home_of(i)) for i in range(len(NAMES))]
    _write(blocks[enriched].mlp, steps)
    _write(blocks[promoted].mlp, [(C + i, D + i) for i in range(len(HOMES))])
    attention = blocks[enriched + 1].self_attn if family == "llama" else blocks[enriched + 1].attn
    out = attention.o_proj if family == "llama" else attention.out_proj
    for i in range(len(HOMES)):
        attention.v_proj.weight[i, B + i] = STRONG
        out.weight[C + i, i] = 1.0
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return wrap(f"planted-{family}", made, tokenizer)


def _embed(embedding: torch.Tensor, head: torch.Tensor) -> None:
    """Names have a direction each, all words the direction ONE; homes are read in D and B."""
    embedding[:, ONE] = 1.0
    for i, name in enumerate(NAMES):
        embedding[WORDS.index(name), A + i] = 1.0
    for i, home in enumerate(HOMES):
        head[WORDS.index(home), D + i] = 20.0
        head[WORDS.index(home), B + i] = 5.0


def _write(mlp: Any, steps: list[tuple[int, int]]) -> None:
    """Make an MLP write one direction wherever it reads another."""
    if hasattr(mlp, "gate_proj"):
        for unit, (read, written) in enumerate(steps):
            mlp.gate_proj.weight[unit, ONE] = 1.0
            mlp.up_proj.weight[unit, read] = STRONG
            mlp.down_proj.weight[written, unit] = 1.0
        return
    for unit, (read, written) in enumerate(steps):
        mlp.fc_in.weight[unit, read] = STRONG
        mlp.fc_out.weight[written, unit] = 1.0
