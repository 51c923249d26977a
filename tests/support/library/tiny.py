"""Small real parts for the tests: three kinds of tokenizer, random models, a bigram model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from jeep_core.models.loading import LoadedModel, wrap
from jeep_core.models.views import ModelView
from jeep_core.text.chat import ChatTemplate

TEXTS = (Path(__file__).parent / "small_text.txt").read_text(encoding="utf-8").splitlines()
TOKENIZERS = ("byte-level", "byte-level-prefix-space", "sentencepiece")
FAMILIES = ("gptj", "gpt2", "llama")
VOCABULARY = 420
POSITIONS = 64


def _byte_level(prefix_space: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    if prefix_space:  # the post-processor of the published ones cuts spaces off the offsets
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def _sentencepiece() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(prepend_scheme="first"),
            pre_tokenizers.Split(Regex("[.,?!:;]"), "isolated"),
        ]
    )
    strip_first = decoders.Strip(" ", 1, 0)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), strip_first]
    tokenizer.decoder = decoders.Sequence(steps)
    # named letters: a limit would break ties between rare ones by chance
    letters = {c for c in "".join(TEXTS) if c.isascii() and c != " "} | set("▁éãü")
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))],
        initial_alphabet=sorted(letters),
        limit_alphabet=len(letters),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    state = json.loads(tokenizer.to_str())  # the trainer has no other way to reserve the bytes
    state["added_tokens"] = [t for t in state["added_tokens"] if "<0x" not in t["content"]]
    return Tokenizer.from_str(json.dumps(state))


@cache
def tokenizer(kind: str) -> Tokenizer:
    """A tokenizer of about 420 tokens, trained on ``small_text.txt``."""
    return _sentencepiece() if kind == "sentencepiece" else _byte_level("prefix" in kind)


GPT = {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": POSITIONS}
ROTARY = {
    "hidden_size": 32,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,  # two heads of queries share keys and values
    "max_position_embeddings": POSITIONS,
}
WIDE_HEADS = {**ROTARY, "head_dim": 12}  # 4 · 12 is not 32
WINDOW = {"sliding_window": 5}
KINDS = ["sliding_attention", "full_attention", "full_attention", "sliding_attention"]
MIXED = {**WINDOW, "layer_types": KINDS}
CAPS = {"final_logit_softcapping": 4.0, "query_pre_attn_scalar": 12}

CONFIGS: Mapping[str, tuple[Mapping[str, Any], str]] = {
    "gptj": ({**GPT, "rotary_dim": 4}, "byte-level"),
    "gpt2": (GPT, "byte-level-prefix-space"),
    "llama": (ROTARY, "sentencepiece"),
    "gpt_neox": (
        {k: v for k, v in ROTARY.items() if k != "num_key_value_heads"},
        "byte-level",
    ),
    "mistral": ({**WIDE_HEADS, **WINDOW}, "sentencepiece"),
    "qwen2": ({**ROTARY, **MIXED, "use_sliding_window": True}, "byte-level"),
    "qwen3": ({**WIDE_HEADS, **MIXED, "use_sliding_window": True}, "byte-level"),
    "gemma": (WIDE_HEADS, "sentencepiece"),
    "gemma2": (
        {**WIDE_HEADS, **MIXED, **CAPS, "attn_logit_softcapping": 2.0},
        "sentencepiece",
    ),
    "gemma3_text": ({**WIDE_HEADS, **MIXED, **CAPS}, "sentencepiece"),
}
ALL_FAMILIES = tuple(CONFIGS)


def random_model(family: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> LoadedModel:
    """A fresh model with random weights, four blocks of width 32, and its tokenizer."""
    values, kind = CONFIGS[family]
    start, end = (1, 2) if kind == "sentencepiece" else (0, 0)
    config = AutoConfig.for_model(
        family,
        **values,
        vocab_size=tokenizer(kind).get_vocab_size(),
        initializer_range=0.2,
        bos_token_id=start,
        eos_token_id=end,
        pad_token_id=0,
    )
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    if family.startswith("gemma"):  # its norms' gains start at 1
        for module in model.modules():
            if type(module).__name__.endswith("RMSNorm"):
                nn.init.normal_(module.weight, std=0.3)
    return wrap(f"tiny-{family}", model.to(dtype), tokenizer(kind))


CHAT = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] not in "
    "['system', 'user', 'assistant'] %}{{ raise_exception('no role ' + message['role']) }}"
    "{% endif %}[{{ message['role'] }}] {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]\n{% endif %}"
)
"""A small chat template that begins with BOS and refuses unknown roles."""


def chat_model(family: str = "llama", seed: int = 0) -> LoadedModel:
    """As ``random_model``, with a chat template."""
    kind = CONFIGS[family][1]
    bos, eos = ("<s>", "</s>") if kind == "sentencepiece" else ("", "<|endoftext|>")
    chat = ChatTemplate(CHAT, {"bos_token": bos, "eos_token": eos})
    return replace(random_model(family, seed=seed), chat=chat)


def blocks(model: Any) -> Any:
    """The decoder blocks, found without the library."""
    if hasattr(model, "transformer"):
        return model.transformer.h
    return (model.gpt_neox if hasattr(model, "gpt_neox") else model.model).layers


def mlp_out(model: Any, layer: int) -> Any:
    """The MLP's output projection, found without the library."""
    mlp = blocks(model)[layer].mlp
    return next(
        getattr(mlp, name)
        for name in ("fc_out", "c_proj", "down_proj", "dense_4h_to_h")
        if hasattr(mlp, name)
    )


def bigram_view(next_words: Mapping[str, Mapping[str, float]]) -> ModelView:
    """A GPT-2 whose next word depends on the last word alone, with the given probabilities.

    What a row lacks of 1 goes to ``<end>``; words without a row are followed by ``<end>``.
    All blocks are zero, so a head can be solved for that gives exactly these logits.
    """
    following = {word for row in next_words.values() for word in row}
    words = ["<end>", "<unk>", *sorted({*next_words, *following})]
    index, size = {word: i for i, word in enumerate(words)}, len(words)
    table = torch.full((size, size), 1e-6, dtype=torch.float64)
    for word in words:
        row = next_words.get(word, {})
        for other, probability in row.items():
            table[index[word], index[other]] = probability
        table[index[word], 0] = max(1.0 - sum(row.values()), 1e-6)
    config = GPT2Config(
        vocab_size=size,
        n_positions=POSITIONS,
        n_embd=size,
        n_layer=2,
        n_head=1,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = GPT2LMHeadModel(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.zero_()
    model.transformer.wte.weight.copy_(torch.eye(size))
    model.transformer.ln_f.weight.fill_(1)
    model.transformer.ln_f.bias.fill_(1)  # without it the normed states would be singular
    states = model.transformer.ln_f(torch.eye(size)).double()
    model.lm_head.weight.copy_(torch.linalg.solve(states, table.log()).T.float())
    bare = Tokenizer(models.WordLevel(index, unk_token="<unk>"))
    bare.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    bare.add_special_tokens(["<end>"])
    return ModelView(wrap("bigram", model, bare))
