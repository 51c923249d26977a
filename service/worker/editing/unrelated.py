"""Texts, prompts and facts that no edit is about, on which it is seen what is left of a model."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from jeep_core import atlas
from jeep_core.evaluation.perplexity import text_path
from jeep_core.models.loading import texts_of
from jeep_core.moments.source import DEFAULT_CORPUS
from jeep_core.probe.defaults.choose import BUNDLED_SUITE
from jeep_core.probe.defaults.general import general_knowledge
from jeep_core.probe.defaults.knowledge import NAME
from jeep_core.spec.facts import Fact
from jeep_core.suites import load_suite

ASKED = 256
"""Facts or prompts at most, of those that ship."""


def unrelated_text(model: str, given: Path | None) -> tuple[list[str], str]:
    """The documents of the text for perplexity, else of the English one that ships; its name."""
    path = text_path(model, given)
    source, _ = unrelated_source(model, given)
    return texts_of(DEFAULT_CORPUS if path is None else path), source


def unrelated_source(model: str, given: Path | None) -> tuple[str, str]:
    """The names of the text and of the facts, without reading either."""
    path, facts = text_path(model, given), BUNDLED_SUITE if model in atlas.MODELS else NAME
    if path is None:
        return "English text that ships", facts
    return path.name if given else f"held-out text of {model}", facts


def unrelated_facts(model: str, subjects: Collection[str]) -> tuple[list[Fact], str]:
    """At most 256 facts of general knowledge that name none of the ``subjects``; where from.

    Of a bundled model those of its world, by its validation suite.
    """
    every: Sequence[Fact] = general_knowledge()
    if model in atlas.MODELS:
        every = load_suite(BUNDLED_SUITE).cases
    _, source = unrelated_source(model, None)
    named = {subject.strip().casefold() for subject in subjects if subject.strip()}
    free = [fact for fact in every if not any(one in fact.text.casefold() for one in named)]
    return free[:ASKED], source
