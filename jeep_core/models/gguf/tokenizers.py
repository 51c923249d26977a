"""``tokenizer.json`` and ``tokenizer_config.json`` from the vocabulary of a GGUF file.

A file names the kind of its tokenizer, ``gpt2`` (merges of bytes) or ``llama`` (SentencePiece),
and for the first how a text is split before, ``tokenizer.ggml.pre``.  The rules by name are
those of the models that were published with them; a name without a rule is refused, since other
splitting would read other tokens and nothing else would show it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from jeep_core.errors import UnsupportedModel, reason_of
from jeep_core.models.gguf.reader import Gguf, damaged

Part = dict[str, Any]
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""Types of tokens."""

_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"(?i:{_WORDS})|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}{_REST}"
_QWEN2 = rf"(?i:{_WORDS})|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{_REST}"


def _split(pattern: str) -> Part:
    """A text is split by a pattern, every match is a word."""
    split = {
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": "Isolated",
        "invert": False,
    }
    return {"type": "Sequence", "pretokenizers": [split, _bytes(use_regex=False)]}


def _bytes(use_regex: bool = True, prefix: bool = False) -> Part:
    """Every byte is a letter; with ``use_regex`` after splitting as GPT-2 does."""
    return {
        "type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True,
        "use_regex": use_regex,
    }  # fmt: skip


_DIGITS = {"type": "Digits", "individual_digits": True}
_NFC = {"type": "NFC"}
SPLITTING: Mapping[str, tuple[Part, Part | None, bool]] = {
    "gpt-2": (_bytes(), None, False),
    "olmo": (_bytes(), _NFC, False),
    "smollm": ({"type": "Sequence", "pretokenizers": [_DIGITS, _bytes()]}, None, False),
    "llama-bpe": (_split(_LLAMA3), None, True),
    "qwen2": (_split(_QWEN2), _NFC, False),
    "deepseek-r1-qwen": (_split(_QWEN2), _NFC, False),
}
"""By name: splitting, normalizer, and whether a whole word of the vocabulary needs no merges."""
_UNNAMED = {"gpt2": "gpt-2", "gptneox": "olmo", "qwen2": "qwen2", "qwen3": "qwen2"}
"""By architecture: the rule of files that name none, older than the names."""


def tokenizer_of(file: Gguf, rows: int) -> tuple[str, Part]:
    """The text of ``tokenizer.json``, and ``tokenizer_config.json``, for ``rows`` embeddings.

    Raises:
        UnsupportedModel: the tokenizer is of an unknown kind, or the vocabulary is damaged.
    """
    vocabulary = Vocabulary(file, rows)
    kind = file.metadata.get("tokenizer.ggml.model")
    if kind == "gpt2":
        parts = _byte_level(vocabulary)
    elif kind == "llama":
        parts = _sentencepiece(vocabulary)
    else:
        raise UnsupportedModel(
            f"{file.path} has a tokenizer of the kind {kind!r}, and only gpt2 and llama can be "
            "converted: take the model's original files"
        )
    state = {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": vocabulary.added(), **parts, "post_processor": vocabulary.template(),
    }  # fmt: skip
    text = json.dumps(state, ensure_ascii=False)
    try:
        Tokenizer.from_str(text)
    except Exception as error:  # the package raises nothing more exact
        raise damaged(
            file.path, f"its vocabulary makes no tokenizer ({reason_of(error)})"
        ) from None
    return text, vocabulary.config()


class Vocabulary:
    """The tokens of a file.

    Raises:
        UnsupportedModel: tokens are missing or there twice, or other lists do not fit them.
    """

    def __init__(self, file: Gguf, rows: int) -> None:
        self.file = file
        tokens = self._get("tokens", [])
        n = len(tokens) if isinstance(tokens, list) else 0
        if not 0 < n <= rows:
            raise damaged(file.path, f"it has {n} tokens and {rows} rows of the embedding")
        self.tokens: Sequence[str] = tokens
        self.kinds: Sequence[int] = self._numbers("token_type", NORMAL)
        self.scores: Sequence[float] = self._numbers("scores", 0.0)
        self.ids = {token: id for id, token in enumerate(self.tokens)}
        if len(self.ids) != n:
            twice = [t for t, count in Counter(self.tokens).items() if count > 1]
            raise damaged(file.path, f"its vocabulary has {twice[0]!r} and others more than once")

    def _get(self, key: str, default: Any = None) -> Any:
        return self.file.metadata.get(f"tokenizer.ggml.{key}", default)

    def _numbers(self, key: str, default: float) -> Any:
        """A number for each token."""
        n = len(self.tokens)
        found = self._get(key, np.full(n, default))
        if not isinstance(found, np.ndarray) or len(found) != n:
            raise damaged(self.file.path, f"its {key} are not as many as its tokens")
        return found.tolist()

    def prefix(self, default: bool) -> bool:
        """Whether a space is put before a text."""
        return bool(self._get("add_space_prefix", default))

    def splitting(self) -> str:
        """The name of the rule by which a text is split."""
        name = self._get("pre", "default")
        return _UNNAMED.get(self.file.architecture, name) if name == "default" else str(name)

    def merges(self) -> list[tuple[str, str]]:
        """The merges as pairs, the earliest first."""
        found = self._get("merges")
        if not isinstance(found, list):
            raise damaged(self.file.path, "its vocabulary has no merges")
        # a space within a token is written as another letter, so there is one between the two
        pairs = [tuple(merge.split(" ")) for merge in found]
        if any(len(pair) != 2 for pair in pairs):
            raise damaged(self.file.path, "a merge of its vocabulary is not of two tokens")
        return [(left, right) for left, right in pairs]

    def special(self, name: str) -> str | None:
        """The token of a role: ``bos``, ``eos``, ``unknown``, ``padding``."""
        id = self._get(f"{name}_token_id")
        return self.tokens[id] if isinstance(id, int) and 0 <= id < len(self.tokens) else None

    def added(self) -> list[Part]:
        """Tokens that are found in a text before anything else."""
        kinds = (UNKNOWN, CONTROL, USER_DEFINED)
        return [
            {
                "id": id, "content": self.tokens[id], "single_word": False, "lstrip": False,
                "rstrip": False, "normalized": False, "special": kind != USER_DEFINED,
            }
            for id, kind in enumerate(self.kinds)
            if kind in kinds and self.tokens[id]
        ]  # fmt: skip

    def _adds(self, name: str) -> bool:
        of_kind = self._get("model") == "llama" or self.splitting() == "llama-bpe"
        return bool(self._get(f"add_{name}_token", name == "bos" and of_kind))

    def template(self) -> Part | None:
        """The tokens put before and after a text, or None."""
        ends = [self.special(name) if self._adds(name) else None for name in ("bos", "eos")]
        names = [token for token in ends if token is not None]
        if not names:
            return None

        def around(*letters: str) -> list[Part]:
            parts: list[Part] = []
            for number, letter in enumerate(letters):
                first, last = [
                    [{"SpecialToken": {"id": token, "type_id": number}}] if token else []
                    for token in ends
                ]
                parts += [*first, {"Sequence": {"id": letter, "type_id": number}}, *last]
            return parts

        special = {t: {"id": t, "ids": [self.ids[t]], "tokens": [t]} for t in names}
        return {
            "type": "TemplateProcessing", "single": around("A"), "pair": around("A", "B"),
            "special_tokens": special,
        }  # fmt: skip

    def config(self) -> Part:
        """``tokenizer_config.json``."""
        roles = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad"}
        tokens = {f"{to}_token": self.special(name) for name, to in roles.items()}
        template = self.file.metadata.get("tokenizer.chat_template")
        return {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            **{name: token for name, token in tokens.items() if token is not None},
            **({"chat_template": template} if isinstance(template, str) else {}),
        }


def _byte_level(vocabulary: Vocabulary) -> Part:
    name = vocabulary.splitting()
    if name not in SPLITTING:
        raise UnsupportedModel(
            f"{vocabulary.file.path} splits texts in a way ({name!r}) that is not known here, only "
            f"{', '.join(SPLITTING)}: take the model's original files"
        )
    splitting, normalizer, whole_words = SPLITTING[name]
    if vocabulary.prefix(False):
        if splitting != _bytes():
            raise UnsupportedModel(
                f"{vocabulary.file.path} puts a space before a text, and splits it as {name!r}: "
                "take the model's original files, this combination is not known here"
            )
        splitting = _bytes(prefix=True)
    model = {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
        "ignore_merges": whole_words, "vocab": vocabulary.ids, "merges": vocabulary.merges(),
    }  # fmt: skip
    decoder = {**_bytes(), "add_prefix_space": True}
    return {
        "normalizer": normalizer, "pre_tokenizer": splitting, "decoder": decoder, "model": model
    }  # fmt: skip


def _sentencepiece(vocabulary: Vocabulary) -> Part:
    """SentencePiece's BPE: the pair that makes the piece of the highest score is merged first."""
    prefix = vocabulary.prefix(True)
    space: Part = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    before = [{"type": "Prepend", "prepend": "▁"}] if prefix else []
    back = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
    decoders = [back, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip]
    unknown = vocabulary.special("unknown")
    if unknown is None and UNKNOWN in vocabulary.kinds:
        unknown = vocabulary.tokens[vocabulary.kinds.index(UNKNOWN)]
    model = {
        "type": "BPE", "dropout": None, "unk_token": unknown, "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": BYTE in vocabulary.kinds,
        "ignore_merges": False, "vocab": vocabulary.ids, "merges": _merges(vocabulary),
    }  # fmt: skip
    return {
        "normalizer": {"type": "Sequence", "normalizers": [*before, space]},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": model,
    }


def _merges(vocabulary: Vocabulary) -> list[tuple[str, str]]:
    """Every way to put a piece together from two others, the best piece first.

    Only ordinary pieces take part: the others are found in the text before, or never.
    """
    scores = vocabulary.scores
    ids = {t: i for t, i in vocabulary.ids.items() if vocabulary.kinds[i] == NORMAL}
    # flat tuples: half a million of anything else would keep the garbage collector busy
    found: list[tuple[float, int, int, str, str]] = []
    for token, id in ids.items():
        cost = -scores[id]
        for cut in range(1, len(token)):
            first = ids.get(token[:cut])
            if first is not None and (second := ids.get(token[cut:])) is not None:
                found.append((cost, first, second, token[:cut], token[cut:]))
    found.sort()
    return [(left, right) for *_, left, right in found]
