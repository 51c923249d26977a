"""Texts against right answers: exact match, token F1 and containment, after normalisation.

Normalisation is that of SQuAD, extended beyond English: compatibility forms and letter case are
made one (NFKC, case folding), punctuation of every script is dropped, white space is one blank.
In scripts that write no blanks every character is a token of its own.

SQuAD drops "a", "an" and "the" everywhere.  Here they are dropped where they are articles: before
another word, and not where "A" is a letter, as in "A) Paris" or "Vitamin A is in it"; otherwise A
would be the one choice that is never right.  No torch here.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from jeep_core.text.words import runs_on

HOW = (
    "case, punctuation, English articles before a word and white space left aside; "
    "of an answer with aliases the one that fits best"
)
"""The normalisation in words, for protocols."""
_ARTICLES = frozenset({"a", "an", "the"})
_AFTER_A_LETTER = frozenset({"and", "because", "is", "or", "was"})
"""Words that follow no article: "A is right" is about a letter."""


@dataclass(frozen=True)
class Match:
    """A text against the right answers of its prompt; ``f1`` is in [0, 1]."""

    exact: bool
    f1: float
    contains: bool


def normalised(text: str) -> str:
    """A text in the form in which answers are compared.

    An article that no other word follows stays: "The The" is an answer, too.  A text of nothing but
    punctuation keeps it.
    """
    parts = unicodedata.normalize("NFKC", text).split()
    words = [(i, word) for i, part in enumerate(parts) if (word := _bare(part))]
    kept: list[str] = []
    for n in reversed(range(len(words))):
        i, word = words[n]
        # the last one that was kept is the next one of the text
        followed = bool(kept) and kept[-1] not in _ARTICLES
        if followed and word.casefold() in _ARTICLES:
            before = parts[i - 1] if i else ""
            if word not in ("a", "A") or not _is_letter(before, parts[i], parts[i + 1]):
                continue
        kept.append(word.casefold())
    return " ".join(reversed(kept)) or " ".join(parts).casefold()


def match(text: str, answers: Iterable[str]) -> Match:
    """A text against every right answer; each figure is that of the answer that fits best.

    Raises:
        ValueError: there is no answer.
    """
    wanted = list(answers)
    if not wanted:
        raise ValueError("a text can only be compared with an answer: none is given")
    tokens = _tokens(normalised(text))
    rights = [_tokens(normalised(one)) for one in wanted]
    # with articles, too: "Group A" has a letter where "group a" has an article; but a right answer
    # of one word is "a" itself, or has none
    whole = _tokens(_with_articles(text))
    longer = [right for one in wanted if len(right := _tokens(_with_articles(one))) > 1]
    exact = tokens in rights or whole in longer
    return Match(
        exact,
        1.0 if exact else max(_f1(tokens, right) for right in rights),
        any(_within(right, tokens) for right in rights)
        or any(_within(right, whole) for right in longer),
    )


def same(a: str, b: str) -> bool:
    """Whether two texts are the same after normalisation."""
    return normalised(a) == normalised(b) or _with_articles(a) == _with_articles(b)


def _with_articles(text: str) -> str:
    """As `normalised`, with every article."""
    parts = unicodedata.normalize("NFKC", text).split()
    words = [word.casefold() for part in parts if (word := _bare(part))]
    return " ".join(words or parts).casefold()


def _bare(part: str) -> str:
    """A part of a text without its punctuation."""
    return "".join(one for one in part if not _is_mark(one))


def _is_mark(character: str) -> bool:
    return unicodedata.category(character)[0] == "P"


def _is_letter(before: str, part: str, after: str) -> bool:
    """Whether an "a" between two parts of a text is a letter, as of a choice, and no article.

    It is where a mark comes right after it ("A.", "(a)", "A - Paris"), and, as a capital, where no
    article can be: before "is" and the like, and inside a sentence before a word that has no
    capital itself ("Vitamin A is in it"; but "Portrait of A Lady").
    """
    follower = _bare(after)
    if _is_mark(part[-1]) or not follower:
        return True
    if "A" not in part:
        return False
    inside = bool(before) and not _is_mark(before[-1])
    return follower.casefold() in _AFTER_A_LETTER or (inside and not follower[0].isupper())


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
