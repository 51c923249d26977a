"""From tokens back to text, one token at a time."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer

_INCOMPLETE = "\ufffd"


class TextStream:
    """The text that tokens add after a prompt, returned as soon as it is certain.

    A token may hold a part of a character only, and some tokenizers drop a space at the start
    of a text; so a few tokens are decoded together with those before them.  The pieces, with
    ``rest`` at the end, are the text.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._ids = list(prompt)  # from the first token that is still decoded along
        self._read = len(self._ids)  # of these, how many were returned
        self._known = self._decode(self._ids)

    def add(self, token: int) -> str:
        """The text that is certain with this token, often of this token alone."""
        self._ids.append(token)
        text = self._decode(self._ids)
        # nothing new, or half a character: wait for the next token
        if len(text) <= len(self._known) or text.endswith(_INCOMPLETE):
            return ""
        piece = text[len(self._known) :]
        del self._ids[: self._read]
        self._read = len(self._ids)
        self._known = self._decode(self._ids)
        return piece

    def rest(self) -> str:
        """The remaining text at the end: half a character shows as U+FFFD."""
        return self._decode(self._ids)[len(self._known) :]

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))


class StopStrings:
    """Cuts a text that comes in pieces before the first of several strings."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""

    def add(self, piece: str, last: bool = False) -> tuple[str, bool]:
        """The text that no stop string can swallow any more, and whether one was found."""
        text = self._held + piece
        if not self._stops:
            return text, False
        found = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if found:
            return text[: min(found)], True
        keep = 0 if last else max(_overlap(text, stop) for stop in self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], False


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of ``text`` with which ``stop`` begins."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
