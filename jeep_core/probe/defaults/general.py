"""General knowledge that ships; needs no torch.

``data/knowledge.json`` holds some six hundred facts that are widely known: countries, places,
works, people, companies, science.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import chain, zip_longest
from pathlib import Path

from jeep_core.spec.facts import Fact

KNOWLEDGE = Path(__file__).parent / "data" / "knowledge.json"
SEED = 0


@cache
def general_knowledge() -> tuple[Fact, ...]:
    """The facts that ship, relations in turn, each with a wrong answer of its relation."""
    rng = random.Random(SEED)
    relations = []
    for relation in json.loads(KNOWLEDGE.read_text(encoding="utf-8"))["relations"]:
        pairs = list(relation["facts"])
        answers = sorted({answer for _, answer in pairs})
        rng.shuffle(pairs)
        relations.append(list(_with_wrong_answers(relation["prompt"], pairs, answers, rng)))
    rng.shuffle(relations)
    in_turn = chain.from_iterable(zip_longest(*relations))
    return tuple(fact for fact in in_turn if fact is not None)


def _with_wrong_answers(
    prompt: str, pairs: Sequence[Sequence[str]], answers: Sequence[str], rng: random.Random
) -> Iterator[Fact]:
    for subject, answer in pairs:
        wrong = rng.choice([other for other in answers if other.split()[0] != answer.split()[0]])
        yield Fact(subject, prompt, wrong, answer)
