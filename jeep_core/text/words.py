"""Where words begin and end, and which scripts write no blanks between them; no tokenizer here."""

from __future__ import annotations

import unicodedata
from bisect import bisect_right

_RUNNING_ON = (
    (0x0E00, 0x0FFF),  # Thai, Lao, Tibetan
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x1950, 0x19FF),  # Tai Le, New Tai Lue, Khmer symbols
    (0x1A20, 0x1AAF),  # Tai Tham
    (0x2E80, 0x312F),  # Han radicals, CJK marks, Hiragana, Katakana, Bopomofo
    (0x3190, 0x9FFF),  # Bopomofo and Katakana extensions, Han
    (0xA9E0, 0xA9FF),  # Myanmar extended
    (0xAA60, 0xAA7F),  # Myanmar extended
    (0xF900, 0xFAFF),  # Han, compatibility
    (0xFE30, 0xFE4F),  # CJK marks, compatibility
    (0xFF01, 0xFF9F),  # full-width marks, half-width Katakana (letters and digits: see below)
    (0x16F00, 0x18CFF),  # marks of Han, Tangut, Khitan
    (0x1AFF0, 0x1B16F),  # Kana supplements
    (0x20000, 0x3FFFF),  # Han, further planes
)
_STARTS = [first for first, _ in _RUNNING_ON]
_HANGUL = ((0x1100, 0x11FF), (0x3130, 0x318F), (0xA960, 0xA97F), (0xAC00, 0xD7FF))
_JOINERS = "\u200c\u200d"


def runs_on(character: str) -> bool:
    """Whether a character is of a script that writes no blanks between words, its marks included.

    Han, Hiragana, Katakana, Bopomofo, Thai, Lao, Khmer, Myanmar, Tibetan and their relatives.
    Hangul is none of them: Korean separates words.  Full-width Latin letters and digits are.
    """
    i = bisect_right(_STARTS, ord(character)) - 1
    return i >= 0 and ord(character) <= _RUNNING_ON[i][1]


def is_hangul(character: str) -> bool:
    """Whether a character is a Korean syllable or letter."""
    return any(first <= ord(character) <= last for first, last in _HANGUL)


def divides(text: str, place: int) -> bool:
    """Whether a word may begin or end before ``text[place]``.

    It may at the ends of the text, beside anything but a letter, digit or underscore, and
    between any two characters where one is of a script that writes no blanks; never before
    a combining mark or beside an invisible joiner, which belong to the character before.
    """
    if place <= 0 or place >= len(text):
        return True
    before, after = text[place - 1], text[place]
    if unicodedata.category(after)[0] == "M" or after in _JOINERS or before in _JOINERS:
        return False
    if not _of_word(before) or not _of_word(after):
        return True
    return runs_on(before) or runs_on(after)


def _of_word(character: str) -> bool:
    return character == "_" or unicodedata.category(character)[0] in "LNM"
