"""Texts of other servers, before they are recorded, logged or shown.

A server may repeat the key that it was sent, in its own spelling; it may send control characters,
halves of surrogate pairs, which cannot be written, and JSON that is nested without end.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html import escape
from typing import Any

LONGEST = 400
"""Characters of a server's message that are shown."""
DEEPEST = 64
"""Levels of JSON; answers of servers have fewer than ten."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069]+")
_HALF = re.compile(r"[\ud800-\udfff]")
_UNITS = re.compile(r"\\+|[^\\]")


class Blank:
    """Replaces a key in texts by ``…``, however it is spelt there.

    A server may show it inside JSON, inside JSON that is a text of other JSON, in an address or in
    HTML: each character may have backslashes before it, or be written by its number.
    """

    def __init__(self, secret: str | None) -> None:
        units = _UNITS.findall(secret or "")
        self._found = re.compile("".join(map(_spelt, units))) if units else None

    def __call__(self, text: str) -> str:
        """A text without the key."""
        return self._found.sub("…", text) if self._found else text


def _spelt(unit: str) -> str:
    """A pattern for a character, or for a run of backslashes, in its spellings.

    Runs are bounded and never given back, so a text of nothing but backslashes takes no longer
    than another.
    """
    number = f"{ord(unit[0]):02x}"
    after_backslash = rf"(?i:u00{number}|x{number})"
    alone = rf"(?i:%{number}|&#x{number};)|&#{ord(unit[0])};"
    if unit[0] == "\\":
        return rf"(?:\\|(?<=\\){after_backslash}|{alone}){{1,{8 * len(unit)}}}+"
    plain = rf"\\{{0,8}}+{re.escape(unit)}|{re.escape(escape(unit))}"
    return rf"(?:{plain}|(?:\\{{1,8}}+|(?<=\\)){after_backslash}|{alone})"


def readable(text: str) -> str:
    """A text that can be written as UTF-8: halves of surrogate pairs become U+FFFD."""
    return _HALF.sub("\ufffd", text)


def shortened(text: str, longest: int = LONGEST) -> str:
    """A text of somebody else in one line of bounded length, without control characters."""
    line = " ".join(_CONTROL.sub(" ", readable(text)).split())
    return line if len(line) <= longest else line[: longest - 1] + "…"


def decoded(text: str, clean: Callable[[str], str]) -> Any:
    """The JSON of a text, with every text in it, keys of objects too, cleaned.

    Raises:
        ValueError: it is no JSON, or nested deeper than `DEEPEST`; or what ``clean`` raises.
    """
    try:
        return _cleaned(json.loads(text), clean, DEEPEST)
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None


def _cleaned(found: Any, clean: Callable[[str], str], levels: int) -> Any:
    if levels == 0:
        raise ValueError(f"the JSON has more than {DEEPEST} levels")
    if isinstance(found, str):
        return clean(found)
    if isinstance(found, list):
        return [_cleaned(one, clean, levels - 1) for one in found]
    if isinstance(found, dict):
        return {clean(key): _cleaned(one, clean, levels - 1) for key, one in found.items()}
    return found
