"""Efficacy, generalization, locality and their harmonic mean (paper, appendix C)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from jeep_core.evaluation.suites import ZsreCase
from jeep_core.facts import Fact
from jeep_core.generation import Scored, score
from jeep_core.views import ModelView


@dataclass(frozen=True)
class CaseScores:
    """One case; None where it has no prompts of that kind.  Shares are in [0, 1]."""

    efficacy: float
    generalization: float | None
    locality: float | None
    greedy: float
    greedy_generalization: float | None
    greedy_locality: float | None


@dataclass(frozen=True)
class Summary:
    """Means over cases, in percent; ``score`` is the harmonic mean of the first three."""

    efficacy: float
    generalization: float
    locality: float
    score: float
    greedy: float
    greedy_generalization: float
    greedy_locality: float
    cases: int


def harmonic_mean(values: Sequence[float]) -> float:
    """0 if any value is 0."""
    return 0.0 if min(values) <= 0 else len(values) / sum(1 / value for value in values)


def counterfact_scores(view: ModelView, cases: Sequence[Fact]) -> list[CaseScores]:
    """Scores of every case: new against true answer by mean log-probability per token.

    The greedy columns say whether the model itself writes the new answer (on edit prompt and
    paraphrases) and still the true one (on neighborhood prompts).
    """
    pairs: list[tuple[str, str]] = []
    for case in cases:
        for prompt in (case.text, *case.paraphrase_prompts, *case.neighborhood_prompts):
            pairs += [(prompt, case.target_new), (prompt, case.target_true or "")]
    scored = iter(score(view, pairs))
    return [_case_scores(case, scored) for case in cases]


def _case_scores(case: Fact, scored: Iterator[Scored]) -> CaseScores:
    def take(n: int) -> list[tuple[Scored, Scored]]:
        return [(next(scored), next(scored)) for _ in range(n)]

    def mean(values: list[bool]) -> float | None:
        return fmean(values) if values else None

    edit = take(1)[0]
    paraphrases = take(len(case.paraphrase_prompts))
    neighbors = take(len(case.neighborhood_prompts))
    return CaseScores(
        efficacy=float(edit[0].mean > edit[1].mean),
        generalization=mean([new.mean > true.mean for new, true in paraphrases]),
        locality=mean([true.mean > new.mean for new, true in neighbors]),
        greedy=float(edit[0].greedy),
        greedy_generalization=mean([new.greedy for new, _ in paraphrases]),
        greedy_locality=mean([true.greedy for _, true in neighbors]),
    )


def summarise(cases: Sequence[CaseScores]) -> Summary:
    """Means over the cases that have a value."""

    def mean(name: str) -> float:
        values = [getattr(case, name) for case in cases]
        present = [value for value in values if value is not None]
        return 100 * fmean(present) if present else 0.0

    efficacy, generalization, locality = map(mean, ("efficacy", "generalization", "locality"))
    return Summary(
        efficacy,
        generalization,
        locality,
        harmonic_mean([efficacy, generalization, locality]),
        mean("greedy"),
        mean("greedy_generalization"),
        mean("greedy_locality"),
        len(cases),
    )


def zsre_scores(view: ModelView, cases: Sequence[ZsreCase]) -> list[tuple[float, float, float]]:
    """(efficacy, generalization, locality) per case: teacher-forced per-token arg-max accuracy."""
    pairs = []
    for case in cases:
        answer = case.fact.target_new
        pairs += [
            (case.fact.text, answer),
            (case.rephrase, answer),
            (case.unrelated, case.unrelated_answer),
        ]
    hits = [s.hits / s.tokens for s in score(view, pairs)]
    return [(hits[i], hits[i + 1], hits[i + 2]) for i in range(0, len(hits), 3)]
