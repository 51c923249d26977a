"""Suites of cases in the formats that the field uses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jeep_core import atlas
from jeep_core.errors import JeepError
from jeep_core.facts import SLOT, Fact


@dataclass(frozen=True)
class Suite:
    """Facts to edit with the prompts that test them; ``dropped`` counts records left out."""

    name: str
    cases: tuple[Fact, ...]
    dropped: int = 0


@dataclass(frozen=True)
class ZsreCase:
    """A zsRE record: the edit, its rephrased question, an unrelated question and its answer."""

    fact: Fact
    rephrase: str
    unrelated: str
    unrelated_answer: str


def load_counterfact(source: str | Path) -> Suite:
    """A Multi-CounterFact file, or a bundled suite by name."""
    path = atlas.SUITES.get(str(source), Path(source))
    records = json.loads(Path(path).read_text(encoding="utf-8"))
    return Suite(str(source), tuple(_counterfact_case(record) for record in records))


def _counterfact_case(record: Mapping[str, Any]) -> Fact:
    rewrite = record["requested_rewrite"]
    return Fact(
        rewrite["subject"],
        rewrite["prompt"],
        rewrite["target_new"]["str"],
        rewrite["target_true"]["str"],
        tuple(record["paraphrase_prompts"]),
        tuple(record["neighborhood_prompts"]),
    )


def load_zsre(source: str | Path) -> tuple[list[ZsreCase], int]:
    """A zsRE file (``zsre_mend_eval.json``) or the bundled one, and how many were dropped.

    Records whose question lacks the subject cannot be edited and are dropped.
    """
    path = atlas.SUITES.get(str(source), Path(source))
    records = json.loads(Path(path).read_text(encoding="utf-8"))
    if not isinstance(records, list):
        raise JeepError(f"{source}: a zsRE file is a JSON list")
    cases = []
    for record in records:
        before, subject, after = record["src"].rpartition(record["subject"])
        if not subject:
            continue
        fact = Fact(subject, before + SLOT + after, record["answers"][0])
        unrelated = record["loc"] + "?"
        cases.append(ZsreCase(fact, record["rephrase"], unrelated, record["loc_ans"]))
    return cases, len(records) - len(cases)
