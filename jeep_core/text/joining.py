"""How a prompt and its answer become one text: the one rule for all that edits, asks or scores.

See docs/prompts.md, which lists the rule with examples.
"""

from __future__ import annotations

import re
from typing import Literal, get_args
from unicodedata import category

from jeep_core.text.words import runs_on

Join = Literal["auto", "space", "none"]
"""``auto``: by what the two texts are; ``space``: with a blank; ``none``: with nothing."""

JOINS: tuple[Join, ...] = get_args(Join)

_HYPHENS = "-\u2010\u2011_"
_APOSTROPHES = "'\u2019\u02bc"
_PARTNERS = {"\u201d": "\u201c", "\u00bb": "\u00ab", "\u203a": "\u2039", "\u2019": "\u2018"}
_QUOTES = "\"'`\u201c\u201d\u201e\u201f\u00ab\u00bb\u2018\u2019\u201a\u201b\u2039\u203a"
_ENDS = ".,;:!?"
_UNITS = "%\u2030\u00b0\u2032\u2033\u2026"
_LONGEST_TAG = 200
_TAG = re.compile(r"<(?:[|\uff5c][^<>]*[|\uff5c]|[A-Za-z][\w.:-]*)>\Z")
_CLITIC = re.compile(r"['\u2019\u02bc](?:[^\W\d_]{1,2}(?!\w)|(?!\w))")


def joined(prompt: str, answer: str, join: Join = "auto") -> str:
    """The text that prompt and answer are together."""
    blank = " " if join_of(prompt, answer, join) == "space" else ""
    return prompt + blank + answer


def join_of(prompt: str, answer: str, join: Join = "auto") -> Literal["space", "none"]:
    """Whether a blank is put between prompt and answer.

    ``space`` puts one unless the answer begins with white space; ``none`` never.
    ``auto`` also puts none where the prompt is empty, ends with white space, an opening mark or
    a full-width mark, and where the answer begins with a closing mark or with a character of a
    script that writes no blanks between words.
    """
    if join == "none" or answer[:1].isspace():
        return "none"
    if join == "space":
        return "space"
    bare = not prompt or prompt[-1].isspace() or _opens(prompt) or _is_full_width_mark(prompt[-1])
    follows_on = bool(answer) and (runs_on(answer[0]) or _closes(answer))
    return "none" if bare or follows_on else "space"


def _opens(prompt: str) -> bool:
    """Whether a prompt ends with a mark to which the following text is attached."""
    last, before = prompt[-1], prompt[:-1]
    if category(last) == "Ps" or last in _HYPHENS or _TAG.search(prompt[-_LONGEST_TAG:]):
        return True
    if category(last) == "Pd" or last in "/\\":
        return not before[-1:].isspace()
    if last in _APOSTROPHES and before[-1:].isalpha():
        return not _is_open(before, last)
    if last in _QUOTES:
        partner = _PARTNERS.get(last)
        ended = partner and before.count(partner) > before.count(last)
        return _is_set_off(before[-1:]) and not ended
    return (category(last) == "Sc" or last in "#@") and _is_set_off(before[-1:])


def _closes(answer: str) -> bool:
    """Whether an answer begins with a mark that is attached to the text before it."""
    first, following = answer[0], answer[1:2]
    if first in _APOSTROPHES:
        return _CLITIC.match(answer) is not None
    if first in _ENDS or first == '"':
        return not following.isalnum() and category(following or "a") not in ("Ps", "Pi")
    return first in _UNITS or category(first) in ("Pe", "Pf")


def _is_open(text: str, mark: str) -> bool:
    """Whether a quotation with this mark, also an apostrophe, was begun in a text and not ended."""
    opening = {"\u2019": "\u2018"}.get(mark, mark)
    depth = 0
    for i, character in enumerate(text):
        if character == opening and _is_set_off(text[max(i - 1, 0) : i]):
            depth += 1
        elif character == mark and not text[i + 1 : i + 2].isalpha():
            depth = max(depth - 1, 0)
    return depth > 0


def _is_set_off(last: str) -> bool:
    """Whether a mark after this character, or at the start of a text, begins something."""
    return not last or last.isspace() or last in _QUOTES or category(last) in ("Ps", "Pi", "Pd")


def _is_full_width_mark(character: str) -> bool:
    """Whether a mark includes its own space: the Chinese full stop, the full-width colon."""
    wide = "\u3001" <= character <= "\u303f" or "\uff01" <= character <= "\uff65"
    return wide and category(character)[0] == "P"
