"""Training examples of the networks: an edit, an equivalent prompt, an unrelated one."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jeep_core.atlas.corpus import AtlasFact, load_facts
from jeep_core.atlas.relations import BY_NAME
from jeep_core.errors import JeepError
from jeep_core.spec.facts import SLOT, Fact
from jeep_core.spec.positions import PromptTokens, TokenizationError, tokenize_fact, tokenize_prompt
from jeep_core.text.joining import Join

if TYPE_CHECKING:
    from tokenizers import Tokenizer

VARIANTS = {
    "city_country": 8,
    "city_continent": 1,
    "country_continent": 3,
    "country_currency": 3,
    "country_language": 3,
}
"""Cases per fact by relation: in the suites, too, most edits give a city another country."""
EQUIVALENTS = 3
NEIGHBORS = 4
AFTER_A_SENTENCE = 0.3


@dataclass(frozen=True)
class Triple:
    """Rows: the edit with its target, other prompts with this target, prompts it must not touch.

    A batch holds one triple per ``subject``, so that its edits do not contradict each other.
    """

    subject: str
    edit: PromptTokens
    equivalents: tuple[PromptTokens, ...]
    unrelated: tuple[PromptTokens, ...]


def triples_of(
    tokenizer: Tokenizer, cases: Sequence[Fact], max_tokens: int
) -> tuple[list[Triple], int]:
    """Triples of the cases that have prompts of all kinds, and how many have not.

    The edit prompt itself counts as one of the equivalent ones.

    Raises:
        JeepError: none is left.
    """
    triples = []
    for case in cases:
        try:
            triple = _triple(tokenizer, case)
        except TokenizationError:
            continue
        longest = max(len(r.ids) for r in (triple.edit, *triple.equivalents, *triple.unrelated))
        if len(triple.equivalents) > 1 and triple.unrelated and longest <= max_tokens:
            triples.append(triple)
    if not triples:
        raise JeepError("no case has a paraphrase and a neighborhood prompt to train on")
    return triples, len(cases) - len(triples)


def _triple(tokenizer: Tokenizer, case: Fact) -> Triple:
    def rows(prompts: Sequence[str], target: str | None) -> tuple[PromptTokens, ...]:
        return tuple(_plain(tokenizer, text, target, case.join) for text in prompts)

    edit = tokenize_fact(tokenizer, case)
    equivalents = rows(case.paraphrase_prompts, case.target_new)
    unrelated = rows(case.neighborhood_prompts, case.target_true)
    questions = getattr(case, "unrelated", ())  # a suite's case, of a layer above this one
    others = tuple(_plain(tokenizer, q.prompt, q.answer, case.join) for q in questions)
    return Triple(case.subject, edit, (edit, *equivalents), unrelated + others)


def _plain(tokenizer: Tokenizer, text: str, target: str | None, join: Join) -> PromptTokens:
    return tokenize_prompt(tokenizer, SLOT, text, target, join)


def atlas_cases(seed: int = 0) -> list[Fact]:
    """Counterfactual cases about the bundled world's untouched subjects.

    No suite edits these subjects.  They are the ones that the suites' neighborhood prompts are
    about, with their true answers; a network sees them here with other answers, and as
    neighbors of one another.
    """
    rng = random.Random(seed)
    facts = [f for f in load_facts() if f.split == "untouched" and f.relation in VARIANTS]
    by_relation: dict[str, list[AtlasFact]] = defaultdict(list)
    by_answer: dict[tuple[str, str], list[AtlasFact]] = defaultdict(list)
    for fact in facts:
        by_relation[fact.relation].append(fact)
        by_answer[fact.relation, fact.object].append(fact)
    cases = []
    for fact in facts:
        others = sorted({f.object for f in by_relation[fact.relation]} - {fact.object})
        same = [f for f in by_answer[fact.relation, fact.object] if f.subject != fact.subject]
        if others and same:
            variants = range(VARIANTS[fact.relation])
            cases += [_atlas_case(fact, others, same, facts, rng) for _ in variants]
    rng.shuffle(cases)
    return cases


def _atlas_case(
    fact: AtlasFact,
    others: Sequence[str],
    same: Sequence[AtlasFact],
    facts: Sequence[AtlasFact],
    rng: random.Random,
) -> Fact:
    phrasings = BY_NAME[fact.relation].phrasings
    edited = rng.randrange(len(phrasings) - 2)
    rest = [i for i in range(len(phrasings)) if i != edited]
    paraphrases = []
    for i in rng.sample(rest, EQUIVALENTS):
        front = rng.choice(facts)
        sentence = f"{front.prompt(rng.choice(front.taught))} {front.object}. "
        follows = rng.random() < AFTER_A_SENTENCE
        paraphrases.append((sentence if follows else "") + fact.prompt(i))
    neighbors = [rng.choice(same).prompt(edited) for _ in range(NEIGHBORS)]
    new = rng.choice(others)
    return Fact(
        fact.subject, phrasings[edited], new, fact.object, tuple(paraphrases), tuple(neighbors)
    )
