"""The texts of single tokens, as log-probabilities are labelled with them."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer

_INCOMPLETE = "\ufffd"


class TokenTexts:
    """The text of a token as it is inside of a text, its space included.

    A tokenizer may drop the space at the start of a text, so a token is decoded after another
    one.  A part of a character shows as U+FFFD.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._before = tokenizer.encode("a", add_special_tokens=False).ids[-1:]
        self._known = self._decode(self._before)
        self._texts: dict[int, str] = {}

    def of(self, token: int) -> str:
        """The text of one token."""
        if token not in self._texts:
            text = self._decode([*self._before, token])
            inside = text.startswith(self._known)
            self._texts[token] = text[len(self._known) :] if inside else self._decode([token])
        return self._texts[token]

    def by_text(self, ranked: Sequence[tuple[int, float]]) -> dict[str, float]:
        """Values by text; of tokens with one text the first, which is the largest, counts."""
        found: dict[str, float] = {}
        for token, value in ranked:
            found.setdefault(self.of(token), value)
        return found

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))


def utf8(text: str) -> list[int] | None:
    """The bytes of a token's text; None for a part of a character."""
    return None if _INCOMPLETE in text else list(text.encode())
