"""Where the first sentence of a text ends; no tokenizer here."""

from __future__ import annotations

import re

_END = re.compile(r"\n|[。！？]|[.!?…]+[\"'”’»)\]]*(?=\s+\S)")
"""A line break, an end mark of a script without blanks, or one that something else follows."""
_TITLES = re.compile(
    "mr|mrs|ms|dr|st|sr|jr|prof|gen|col|capt|lt|sgt|maj|rev|hon|gov|sen|rep|pres|mt|ft|vs", re.I
)
"""Words before whose period no sentence ends: a name or a number follows them."""
_LAST_WORD = re.compile(r"\S+$")


def first_sentence(text: str) -> str:
    """The first sentence of a text, without white space around it; all of it if none has ended."""
    text = text.lstrip()
    end = _end(text)
    return (text if end is None else text[:end]).strip()


def has_sentence(text: str) -> bool:
    """Whether a text goes on after its first sentence, or has broken its line there."""
    return _end(text.lstrip()) is not None


def _end(text: str) -> int | None:
    """The place after the first sentence; None while it may still go on.

    A mark that a small letter follows ends no sentence, nor does a period after an initial, an
    abbreviation with periods inside, a title or the number of a list.
    """
    for found in _END.finditer(text):
        if found.group()[0] in ".!?…" and _within(text, found):
            continue
        return found.end()
    return None


def _within(text: str, found: re.Match[str]) -> bool:
    """Whether the sentence goes on after a mark."""
    after = text[found.end() :].lstrip()[:1]
    if after.islower():
        return True
    if found.group().rstrip("\"'”’»)]") != ".":
        return False
    before = _LAST_WORD.search(text[: found.start()])
    word = before.group().lstrip("\"'“‘«([") if before else ""
    if word.isdigit():
        return text[: found.start()].strip() == word
    if word.lower() == "no":
        return after.isdigit()
    return (len(word) == 1 and word.isupper()) or "." in word or bool(_TITLES.fullmatch(word))
