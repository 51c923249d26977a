"""Cases of an evaluation as they are listed: of suites, and documents of tasks of lm-eval."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

JUDGED = ("efficacy", "generalization", "locality", "portability")
"""Scores of a suite's case that are 1 where it is answered as it should be."""


@dataclass(frozen=True)
class Case:
    """A case: ``right`` is the answer that it should have; ``short`` are scores below 1, and
    ``figures`` values that are no share, such as a log-likelihood.  ``answers``: what was given.
    """

    prompt: str
    right: str
    short: Sequence[tuple[str, float]]
    figures: Sequence[tuple[str, str]]
    questions: Sequence[Mapping[str, Any]]
    answers: Sequence[str]


def listed(path: Path, which: str, first: int, count: int) -> list[Case]:
    """Up to ``count`` cases of a file from the ``first``-th on; of ``missed`` those that fall
    short of their answer.
    """
    with path.open(encoding="utf-8") as lines:
        cases: Iterator[Mapping[str, Any]] = map(json.loads, lines)
        if which == "missed":
            cases = (case for case in cases if missed(case))
        return [shown(case) for case in islice(cases, first, first + count)]


def missed(case: Mapping[str, Any]) -> bool:
    """Whether a case is not answered as it should be."""
    return bool(_short(_judged(case)))


def shown(case: Mapping[str, Any]) -> Case:
    """A line of a file of cases, as it is shown."""
    of_task = isinstance(case.get("metrics"), dict)
    scores = case["metrics"] if of_task else case.get("scores") or {}
    figures = {name: one for name, one in scores.items() if of_task and not _is_share(one)}
    right = case.get("expected") if of_task else case.get("target_new")
    return Case(
        prompt=case.get("prompt") or case.get("id") or "",
        right="" if right is None else str(right),
        short=_short(scores),
        figures=[(name, _written(one)) for name, one in figures.items()],
        questions=case.get("prompts") or (),
        answers=[str(one) for one in case.get("answers") or ()] if of_task else (),
    )


def _judged(case: Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(case.get("metrics"), dict):
        metrics: Mapping[str, Any] = case["metrics"]
        return metrics
    scores = case.get("scores") or case
    return {name: scores.get(name) for name in JUDGED}


def _short(scores: Mapping[str, Any]) -> list[tuple[str, float]]:
    """The shares below 1; margins are none."""
    shares = ((name, one) for name, one in scores.items() if not name.startswith("margin"))
    return [(name, one) for name, one in shares if _is_share(one) and one < 1]


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and 0 <= value <= 1


def _written(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else json.dumps(value)
