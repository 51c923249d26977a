"""Train the two tokenizers of the bundled models.

``gptj``: byte-level BPE, no token before a text.  ``llama``: BPE over words marked with
``▁``, bytes for what the alphabet lacks, ``<s>`` before every text.  About 1,000 tokens
each, so that most names fall into several tokens.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from jeep_core.atlas.corpus import document_text, documents, epoch_sentences, load_facts

VOCABULARY = 1024
BYTES_ONLY = frozenset("4Đħịḑ")
"""The rarest characters, left to the bytes.  Named, since the trainer breaks ties by chance."""


def training_texts(seed: int) -> list[str]:
    """One epoch of training text."""
    rng = random.Random(seed)
    return [document_text(d)[0] for d in documents(epoch_sentences(load_facts(), rng), rng)]


def byte_level(texts: list[str]) -> PreTrainedTokenizerFast:
    """GPT-2's kind of tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    end = "<|endoftext|>"
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, bos_token=end, eos_token=end, unk_token=end, pad_token=end
    )


def sentencepiece_like(texts: list[str]) -> PreTrainedTokenizerFast:
    """LLaMA's kind of tokenizer."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(prepend_scheme="first"),
            pre_tokenizers.Split(Regex("[.,?!:;]"), "isolated"),
        ]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    alphabet = sorted(set("".join(texts).replace(" ", "▁")) - BYTES_ONLY)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=_plain_bytes(tokenizer),
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="</s>",
    )


def _plain_bytes(tokenizer: Tokenizer) -> Tokenizer:
    """The same tokenizer whose byte tokens are not special, so that decoding keeps them.

    The trainer knows no other way to reserve them; ids stay what they are.
    """
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [
        token for token in state["added_tokens"] if not token["content"].startswith("<0x")
    ]
    return Tokenizer.from_str(json.dumps(state))


def build(name: str, folder: Path, seed: int) -> PreTrainedTokenizerFast:
    """Train the tokenizer of the bundled model ``name`` and save it in ``folder``."""
    texts = training_texts(seed)
    tokenizer = byte_level(texts) if name == "gptj" else sentencepiece_like(texts)
    tokenizer.save_pretrained(folder)
    return tokenizer
