"""From text to tokens: the tokens that open a text once, and none that end it.

A tokenizer may put special tokens around a text.  What opens it (BOS) stays, but is not added to
a text that begins with it already, as chat templates write it.  What ends it (EOS) is left out: a
prompt that has ended has no answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer


def encode(tokenizer: Tokenizer, text: str) -> Encoding:
    """The tokens of a text, with their characters."""
    return _tidied(tokenizer, text, tokenizer.encode(text))


def encode_all(tokenizer: Tokenizer, texts: Iterable[str]) -> list[Encoding]:
    """The tokens of every text, as by ``encode``."""
    known = list(texts)
    found = tokenizer.encode_batch(known)
    return [_tidied(tokenizer, text, one) for text, one in zip(known, found, strict=True)]


def count(tokenizer: Tokenizer, text: str) -> int:
    """How many tokens a text has."""
    return len(encode(tokenizer, text).ids)


def opening(tokenizer: Tokenizer) -> str:
    """The text of the special tokens that are put before every text; mostly empty."""
    return "".join(tokenizer.id_to_token(i) or "" for i in encode(tokenizer, "").ids)


def without_end(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer without special tokens after a text; itself if it has none.

    Other programs that read its file then count as this one does.
    """
    state = json.loads(tokenizer.to_str())
    if not _cut(state.get("post_processor")):
        return tokenizer
    changed: Tokenizer = type(tokenizer).from_str(json.dumps(state, ensure_ascii=False))
    return changed


def _tidied(tokenizer: Tokenizer, text: str, found: Encoding) -> Encoding:
    """The encoding of ``text`` without a second BOS and without EOS."""
    n_added = tokenizer.num_special_tokens_to_add(False)
    if not n_added:
        return found
    lead = _leading(tokenizer, found)
    if lead and found.ids[lead : 2 * lead] == found.ids[:lead] and len(found) > n_added:
        return tokenizer.encode(text, add_special_tokens=False)
    if lead < n_added:
        found.truncate(len(found) - (n_added - lead))
    return found


def _leading(tokenizer: Tokenizer, found: Encoding) -> int:
    """How many special tokens were put before a text."""
    if all(found.special_tokens_mask):  # a text without tokens does not show where it was
        found = tokenizer.encode("a")
    return next((i for i, added in enumerate(found.special_tokens_mask) if not added), 0)


def _cut(processor: Any) -> bool:
    """Drop the tokens that a post-processor (JSON) puts after a text; whether there were any."""
    if not isinstance(processor, dict):
        return False
    parts = [_cut(part) for part in processor.get("processors", [])]
    if processor.get("type") != "TemplateProcessing":
        return any(parts)
    single = processor["single"]
    last = max((i for i, piece in enumerate(single) if "Sequence" in piece), default=-1)
    processor["single"] = single[: last + 1]
    return len(single) > last + 1
