"""Which weights a family's blocks hold, and what a pass keeps of them; needs no torch.

`Contents` is a field of a row of ``families.py``.  Counts follow from it and a configuration
(``jeep_core.sizing``), before anything is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

Flag = bool | str
"""Whether something is there; a text names the configuration's flag that says so."""


@dataclass(frozen=True)
class Contents:
    """The weights of a block and of what surrounds the blocks.

    ``gated``: an MLP of three matrices.  ``mlp_bias``, ``qkv_bias``, ``out_bias``: which
    projections have a bias.  ``block_norms`` of width d, with a bias if ``norm_bias``;
    ``head_norms``: one each for queries and keys, of the width of a head.  ``head_bias``: of the
    language head.  ``names``: how the configuration calls what others call by the names on the
    left.  ``defaults``: what transformers takes for keys that a configuration leaves out.

    For the backward pass: ``kept_activations`` counts the tensors of d_ff numbers a token that an
    MLP keeps, ``float32_norms`` whether norms keep their input in float32 whatever the weights'
    type, ``eager_attention`` whether probabilities are kept, of each head for each token before.
    """

    gated: bool = True
    mlp_bias: Flag = False
    qkv_bias: Flag = False
    out_bias: Flag = False
    block_norms: int = 2
    norm_bias: bool = False
    head_norms: bool = False
    head_bias: bool = False
    names: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    kept_activations: int = 3
    float32_norms: bool = True
    eager_attention: bool = False


_GPT_NAMES = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "intermediate_size": "n_inner",
    "max_position_embeddings": "n_positions",
}

GPT2 = Contents(
    gated=False,
    mlp_bias=True,
    qkv_bias=True,
    out_bias=True,
    norm_bias=True,
    names=_GPT_NAMES,
    defaults={"tie_word_embeddings": True},
    kept_activations=4,  # the formula of GELU, written out
    float32_norms=False,
)
GPT_J = Contents(
    gated=False,
    mlp_bias=True,
    block_norms=1,
    norm_bias=True,
    head_bias=True,
    names=_GPT_NAMES,
    kept_activations=4,
    float32_norms=False,
)
GPT_NEOX = Contents(
    gated=False,
    mlp_bias=True,
    qkv_bias="attention_bias",
    out_bias="attention_bias",
    norm_bias=True,
    defaults={"attention_bias": True},
    kept_activations=1,
    float32_norms=False,
)
GEMMA = Contents(
    qkv_bias="attention_bias",
    out_bias="attention_bias",
    defaults={"tie_word_embeddings": True, "head_dim": 256, "num_key_value_heads": 16},
)
GEMMA_2 = replace(
    GEMMA,
    block_norms=4,
    eager_attention=True,
    defaults={**GEMMA.defaults, "num_key_value_heads": 4},
)
GEMMA_3 = replace(GEMMA_2, head_norms=True, eager_attention=False)
