"""A model and a tokenizer in the form that the authors' code was written for.

It dates from transformers 4: blocks returned tuples, a model of the GPT kind named its sizes
``n_embd`` and ``n_positions``, and a tokenizer whose path has "gpt-j" in it was byte-level.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerFast

from jeep_core.models.loading import LoadedModel

TOKENIZER = "gpt-j-tokenizer"
"""JEEP's code tells byte-level tokenizers by "gpt-j" in their path; others it takes for LLaMA's."""


def twin(base: LoadedModel) -> Any:
    """A copy of a model whose blocks return tuples, to hooks that come later."""
    model = copy.deepcopy(base.model)
    config = model.config
    config._name_or_path = base.name
    for name, value in {"n_embd": base.hidden_size, "n_positions": base.max_positions}.items():
        if not hasattr(config, name):
            setattr(config, name, value)
    blocks = base.family.layers_of(model)
    norm = base.family.backbone_of(model).get_submodule(base.family.final_norm)
    for block in blocks:
        block.register_forward_hook(_as_tuple)
    for module in (*blocks, norm):
        module.register_forward_pre_hook(_as_tensor)
    return model


def tokenizer_for(base: LoadedModel, folder: Path) -> Any:
    """The model's tokenizer as transformers', saved in ``folder`` under a name with "gpt-j" in it.

    Raises:
        ValueError: it puts a token before every text, which that code counts as part of the answer.
    """
    end = base.tokenizer.id_to_token(min(base.eos_token_ids))
    if base.tokenizer.encode(" a").ids != base.tokenizer.encode(" a", add_special_tokens=False).ids:
        raise ValueError(f"{base.name}: its tokenizer adds tokens of its own; take another model")
    kind: Any = PreTrainedTokenizerFast
    made = kind(tokenizer_object=base.tokenizer, eos_token=end, pad_token=end, padding_side="right")
    made.save_pretrained(folder / TOKENIZER)
    return AutoTokenizer.from_pretrained(folder / TOKENIZER)


def module_names(base: LoadedModel) -> dict[str, str]:
    """Names of a model's modules, as the authors' hyper-parameters have them."""
    family = base.family
    block = f"{family.backbone}.{family.layers}.{{}}"
    head = base.model.get_output_embeddings().weight
    # a tied head has the name of the embedding, the first one in the model
    named = next(name for name, one in base.model.named_parameters() if one is head)
    return {
        "rewrite_module_tmp": f"{block}.{family.mlp_out}",
        "layer_module_tmp": block,
        "mlp_module_tmp": f"{block}.{family.mlp_out.rpartition('.')[0]}",
        "attn_module_tmp": f"{block}.{family.attention_out.rpartition('.')[0]}",
        "ln_f_module": f"{family.backbone}.{family.final_norm}",
        "lm_head_module": named.removesuffix(".weight"),
    }


def _as_tuple(module: Any, inputs: Any, output: Any) -> Any:
    return output if isinstance(output, tuple) else (output,)


def _as_tensor(module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    first, *others = inputs
    return (first[0] if isinstance(first, tuple) else first, *others)
