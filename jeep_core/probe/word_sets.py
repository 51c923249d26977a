"""Sets of words around a fact, as tokens (paper, appendix A; figure 5).

A word is represented by its first token, as an answer is.  The sets of a prompt are
disjoint; a token that several would have belongs to the first of them:

- ``original``: the first token of the original answer;
- ``factual``: subjects and objects of the fact table that belong to the prompt's subject or to
  its relation;
- ``stop_words``: English stop words and punctuation that are one token;
- ``non_factual``: other words of the documents that BM25 finds for the prompt and that name its
  subject;
- ``unrelated``: the rest of the vocabulary.
"""

from __future__ import annotations

import re
import string
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import bm25s
import torch
from bm25s.stopwords import STOPWORDS_EN_PLUS
from tokenizers import Tokenizer

from jeep_core.probe.prompts import Prompt
from jeep_core.text.joining import joined

NAMES = ("original", "factual", "stop_words", "non_factual", "unrelated")
DOCUMENTS = 100
PER_RELATION = 50
WORD = re.compile(r"[^\W\d_][\w'’-]*")


@dataclass(frozen=True)
class TableFact:
    """A row of a fact table."""

    subject: str
    relation: str
    object: str


@dataclass(frozen=True)
class WordSets:
    """Token sets per prompt, in the order of ``NAMES`` but for the rest of the vocabulary.

    ``without_documents`` counts prompts for which no document names the subject,
    ``without_facts`` those about which the table has no fact.
    """

    tokens: Sequence[Sequence[frozenset[int]]]
    without_documents: int = 0
    without_facts: int = 0
    names: tuple[str, ...] = field(default=NAMES)

    def masks(self, prompt: int, vocabulary: int) -> torch.Tensor:
        """(sets, vocabulary), 1 where a token is in the set."""
        found = torch.zeros(len(self.names), vocabulary)
        for row, tokens in enumerate(self.tokens[prompt]):
            found[row, list(tokens)] = 1
        found[-1] = 1 - found[:-1].sum(dim=0)
        return found


class Documents:
    """A corpus that BM25 searches."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = list(texts)
        self._index = bm25s.BM25()
        self._index.index(self._split(self._texts), show_progress=False)

    def about(self, subject: str, prompt: str, count: int = DOCUMENTS) -> list[str]:
        """Those of the ``count`` best documents for a prompt that name its subject."""
        found, scores = self._index.retrieve(
            self._split([prompt]), k=min(count, len(self._texts)), show_progress=False
        )
        best = [self._texts[i] for i, s in zip(found[0], scores[0], strict=True) if s > 0]
        return [text for text in best if subject.casefold() in text.casefold()]

    @staticmethod
    def _split(texts: list[str]) -> list[list[str]]:
        """Words of each text; there is always one, which the library needs."""
        split = bm25s.tokenize(texts, stopwords=None, return_ids=False, show_progress=False)
        return [words or [""] for words in split]


class FactTable:
    """Which words are factual for a prompt."""

    def __init__(self, facts: Iterable[TableFact]) -> None:
        self._by_subject: dict[str, list[TableFact]] = defaultdict(list)
        self._by_relation: dict[str, list[TableFact]] = defaultdict(list)
        for fact in facts:
            self._by_subject[fact.subject].append(fact)
            self._by_relation[fact.relation].append(fact)

    def words(self, subject: str, answer: str | None) -> list[str]:
        """Names that belong to the subject, then those of up to 50 facts of its relation.

        The relation is that by which the table joins subject and answer; if none does, the
        subject's relations all count.
        """
        own = self._by_subject.get(subject, [])
        joining = [fact.relation for fact in own if fact.object == answer]
        relations = dict.fromkeys(joining or [fact.relation for fact in own])
        related = [f for name in relations for f in self._by_relation[name][:PER_RELATION]]
        return list(dict.fromkeys(n for f in [*own, *related] for n in (f.object, f.subject)))


def word_sets(
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    documents: Documents,
    table: FactTable,
) -> WordSets:
    """The sets of every prompt; the words of its own answer are in none but ``original``."""
    stop = _stop_tokens(tokenizer)
    first = _FirstTokens(tokenizer)
    tokens, without_documents, without_facts = [], 0, 0
    for prompt in prompts:
        fact = prompt.fact
        texts = documents.about(fact.subject, fact.text)
        factual = table.words(fact.subject, fact.target_true)
        without_documents += not texts
        without_facts += not factual
        words = dict.fromkeys(word for text in texts for word in WORD.findall(text))
        taken = {prompt.original}
        sets = [frozenset(taken)]
        for candidates in (first.of(factual), stop, first.of(words)):
            sets.append(frozenset(candidates - taken))
            taken |= candidates
        tokens.append(sets)
    return WordSets(tokens, without_documents, without_facts)


class _FirstTokens:
    """Tokens that words begin with in the middle of a text, remembered."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._start = len(_plain(tokenizer, "a"))
        self._known: dict[str, int] = {}

    def of(self, words: Iterable[str]) -> set[int]:
        found = set()
        for word in words:
            if word not in self._known:
                ids = _plain(self._tokenizer, joined("a", word))
                self._known[word] = ids[min(self._start, len(ids) - 1)]
            found.add(self._known[word])
        return found


def _stop_tokens(tokenizer: Tokenizer) -> set[int]:
    """Stop words, also with a capital, and punctuation marks that are one token."""
    found = set()
    start = len(_plain(tokenizer, "a"))
    for word in STOPWORDS_EN_PLUS:
        for form in (word, word.capitalize()):
            ids = _plain(tokenizer, f"a {form}")[start:]
            if len(ids) == 1:
                found.add(ids[0])
    for mark in string.punctuation:
        ids = _plain(tokenizer, f"a{mark}")[start:]
        if len(ids) == 1:
            found.add(ids[0])
    return found


def _plain(tokenizer: Tokenizer, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids
