"""Texts against right answers: exact match, token F1 and containment, after normalisation.

Normalisation is that of SQuAD, extended beyond English: compatibility forms and letter case are
made one (NFKC, case folding), punctuation of every script and the English articles are dropped,
white space is one blank.  In scripts that write no blanks every character is a token of its own.
No torch here.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from jeep_core.text.words import runs_on

HOW = (
    "case, punctuation, English articles and white space left aside; "
    "of an answer with aliases the one that fits best"
)
"""The normalisation in words, for protocols."""
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


@dataclass(frozen=True)
class Match:
    """A text against the right answers of its prompt; ``f1`` is in [0, 1]."""

    exact: bool
    f1: float
    contains: bool


def normalised(text: str) -> str:
    """A text in the form in which answers are compared.

    A text of nothing but articles and punctuation keeps them: "The The" is an answer, too.
    """
    plain = unicodedata.normalize("NFKC", text).casefold()
    words = "".join(one for one in plain if unicodedata.category(one)[0] != "P")
    return _spaced(_ARTICLES.sub(" ", words)) or _spaced(words) or _spaced(plain)


def match(text: str, answers: Iterable[str]) -> Match:
    """A text against every right answer; each figure is that of the answer that fits best.

    Raises:
        ValueError: there is no answer.
    """
    written = normalised(text)
    wanted = [normalised(answer) for answer in answers]
    if not wanted:
        raise ValueError("a text can only be compared with an answer: none is given")
    tokens = _tokens(written)
    return Match(
        written in wanted,
        max(_f1(tokens, _tokens(one)) for one in wanted),
        any(_within(_tokens(one), tokens) for one in wanted),
    )


def same(a: str, b: str) -> bool:
    """Whether two texts are the same after normalisation."""
    return normalised(a) == normalised(b)


def _spaced(text: str) -> str:
    return " ".join(text.split())


def _tokens(text: str) -> list[str]:
    """Words, and single characters of scripts without blanks."""
    spaced = "".join(f" {one} " if runs_on(one) else one for one in text)
    return spaced.split()


def _f1(written: Sequence[str], wanted: Sequence[str]) -> float:
    """The harmonic mean of precision and recall over tokens; 1 where both have none."""
    if not written or not wanted:
        return float(written == wanted)
    both = (Counter(written) & Counter(wanted)).total()
    return 2 * both / (len(written) + len(wanted))


def _within(part: Sequence[str], whole: Sequence[str]) -> bool:
    """Whether some tokens stand one after the other among others; no tokens never do."""
    n = len(part)
    return n > 0 and any(whole[i : i + n] == part for i in range(len(whole) - n + 1))
