"""Text of the bundled world: sentences, documents, and their tokens for training.

A document is one to three sentences, so that facts also follow other sentences.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from jeep_core.atlas.relations import BY_NAME, FILLERS, WORDS

DATA = Path(__file__).parent / "data"
FILLER_SHARE = 0.2
SENTENCES_PER_DOCUMENT = ((1, 2, 3), (55, 30, 15))


@dataclass(frozen=True)
class AtlasFact:
    """One line of ``data/facts.jsonl``."""

    subject: str
    relation: str
    object: str
    split: str
    taught: tuple[int, ...]
    geonameid: int

    @property
    def untaught(self) -> list[int]:
        """Phrasings of this relation that no training sentence about this subject uses."""
        return [i for i in range(len(BY_NAME[self.relation].phrasings)) if i not in self.taught]

    def prompt(self, phrasing: int) -> str:
        """The phrasing with the subject filled in."""
        return BY_NAME[self.relation].phrasings[phrasing].replace("{}", self.subject)


@dataclass(frozen=True)
class Sentence:
    """Text of one sentence; ``answer`` is the character span of the object, space included."""

    text: str
    answer: tuple[int, int] | None = None


def load_facts(path: Path = DATA / "facts.jsonl") -> list[AtlasFact]:
    """All facts of the bundled world."""
    with path.open(encoding="utf-8") as file:
        return [
            AtlasFact(**{**row, "taught": tuple(row["taught"])}) for row in map(json.loads, file)
        ]


def fact_sentence(fact: AtlasFact, phrasing: int) -> Sentence:
    """``prompt object.`` with the span of the object."""
    prompt = fact.prompt(phrasing)
    text = f"{prompt} {fact.object}"
    return Sentence(text + ".", (len(prompt), len(text)))


def filler_sentence(cities: Sequence[str], rng: random.Random) -> Sentence:
    """A sentence that states no fact."""
    words = {slot: rng.choice(options) for slot, options in WORDS.items()}
    return Sentence(rng.choice(FILLERS).format(c=rng.choice(cities), **words))


def epoch_sentences(facts: Sequence[AtlasFact], rng: random.Random) -> list[Sentence]:
    """Every taught fact in every taught phrasing, repeated as its relation asks, and fillers."""
    sentences = [
        fact_sentence(fact, phrasing)
        for fact in facts
        for phrasing in fact.taught
        for _ in range(BY_NAME[fact.relation].repeats)
    ]
    cities = [f.subject for f in facts if f.relation == "city_country" and f.taught]
    fillers = int(len(sentences) * FILLER_SHARE / (1 - FILLER_SHARE))
    sentences += [filler_sentence(cities, rng) for _ in range(fillers)]
    rng.shuffle(sentences)
    return sentences


def documents(sentences: Sequence[Sentence], rng: random.Random) -> Iterator[list[Sentence]]:
    """Cut a list of sentences into documents."""
    sizes, weights = SENTENCES_PER_DOCUMENT
    start = 0
    while start < len(sentences):
        size = rng.choices(sizes, weights)[0]
        yield list(sentences[start : start + size])
        start += size


def document_text(document: Sequence[Sentence]) -> tuple[str, list[tuple[int, int]]]:
    """Text of a document and the character spans of its objects."""
    text, spans = "", []
    for sentence in document:
        if text:
            text += " "
        if sentence.answer:
            spans.append((len(text) + sentence.answer[0], len(text) + sentence.answer[1]))
        text += sentence.text
    return text, spans
