"""The facts that govern what a version says, found by question and by subject."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from jeep_core.spec.facts import normalise, question_key
from service.contracts.schemas import FactEntry
from service.store import Store
from service.store.history import facts_of

KEPT = 2
"""Versions whose facts are kept at hand: a page asks for those of head at every key."""


@dataclass(frozen=True)
class LiveFacts:
    """The live facts of a version."""

    facts: Sequence[FactEntry]
    by_question: dict[tuple[str, str], FactEntry]
    by_subject: dict[str, list[FactEntry]]

    def same_question(self, subject: str, prompt: str) -> FactEntry | None:
        """The fact that an edit of this question replaces."""
        return self.by_question.get(question_key(subject, prompt))

    def same_subject(self, subject: str) -> Sequence[FactEntry]:
        """All facts about a subject."""
        return self.by_subject.get(normalise(subject), ())


@lru_cache(maxsize=KEPT)
def live_facts(store: Store, version: str) -> LiveFacts:
    """The live facts of a version, which never change.

    Raises:
        StoreError: there is no such version, or one that it is built on is damaged.
    """
    facts = [one for one in facts_of(store.versions.lineage(version)) if one.state == "live"]
    by_subject: dict[str, list[FactEntry]] = {}
    for fact in facts:
        by_subject.setdefault(normalise(fact.subject), []).append(fact)
    by_question = {question_key(fact.subject, fact.prompt): fact for fact in facts}
    return LiveFacts(facts, by_question, by_subject)
