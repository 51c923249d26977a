"""Efficacy, generalization, locality and their harmonic mean (paper, appendix C).

Contrast style (CounterFact): the new answer against the true one on the edit prompt and its
paraphrases, the right answer against the new one on neighborhood prompts.  P of an answer of
several tokens is that of its mean log-probability per token; a tie is no success for either.

Accuracy style (zsRE): the share of the right answer's tokens that are the arg-max, each behind
the right tokens before it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from math import exp
from statistics import fmean
from typing import Any, Literal

from jeep_core.evaluation.scoring import AnswerTokens, Asked, Reading, Told, read, tokenized
from jeep_core.evaluation.suites import Case, Question, Style
from jeep_core.facts import Fact
from jeep_core.joining import Join
from jeep_core.loading import LoadedModel
from jeep_core.views import ModelView

Kind = Literal["edit", "paraphrase", "neighbor", "portability"]


@dataclass(frozen=True)
class CaseScores:
    """One case; None where it has no prompts of that kind.  Shares are in [0, 1].

    ``greedy…``: the share of prompts whose right answer the model itself writes.  ``margin…``:
    mean P(new) - P(true), on neighbors P(right) - P(new), in [-1, 1].
    """

    efficacy: float
    generalization: float | None
    locality: float | None
    greedy: float
    greedy_generalization: float | None
    greedy_locality: float | None
    margin: float | None = None
    margin_generalization: float | None = None
    margin_locality: float | None = None
    portability: float | None = None


@dataclass(frozen=True)
class PromptRecord:
    """One prompt of a case; probabilities are geometric means over an answer's tokens.

    ``p_right``: of the answer that an edit shall bring about, or leave as it is; ``p_other``: of
    the answer that it is held against.  ``value`` enters the case's mean.
    """

    kind: Kind
    prompt: str
    right: str
    p_right: float
    p_other: float | None
    value: float
    writes: bool


@dataclass(frozen=True)
class CaseRecord:
    """A case with its scores, prompt by prompt."""

    id: str
    subject: str
    prompt: str
    target_new: str
    target_true: str | None
    scores: CaseScores
    prompts: tuple[PromptRecord, ...]

    def as_json(self) -> dict[str, Any]:
        """One flat object: the scores beside the case's own fields."""
        found = asdict(self)
        return {**found, **found.pop("scores"), "prompts": found.pop("prompts")}


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


def measure(
    view: ModelView, cases: Sequence[Fact], style: Style, told: Told | None = None
) -> list[CaseRecord]:
    """The record of every case, all prompts scored together.

    Raises:
        JeepError: a prompt cannot be asked; see :func:`fitting`.
        Whatever ``told`` raises, which hears how many rows are done.
    """
    known = [case if isinstance(case, Case) else Case(**vars(case)) for case in cases]
    plans = [_prompts(case, style) for case in known]
    asked = [one for plan in plans for prompt in plan for one in prompt.asked]
    readings = iter(read(view, asked, told))
    return [
        _record(case, [_judged(prompt, style, readings) for prompt in plan])
        for case, plan in zip(known, plans, strict=True)
    ]


def counterfact_scores(view: ModelView, cases: Sequence[Fact]) -> list[CaseScores]:
    """Scores of every case, new against true answer."""
    return [record.scores for record in measure(view, cases, Style.CONTRAST)]


def fitting(
    base: LoadedModel, cases: Sequence[Case], style: Style
) -> tuple[list[Case], Counter[str], Counter[str]]:
    """The cases that this model can be asked, without the prompts that it cannot.

    Returns also how many cases were left out for which reason (their edit prompt cannot be
    asked) and how many prompts of the cases that stay; reasons as in ``scoring.tokenized``.
    """
    plans = [_prompts(case, style) for case in cases]
    asked = [one for plan in plans for prompt in plan for one in prompt.asked]
    found = iter(tokenized(base.tokenizer, asked, base.max_positions))
    kept: list[Case] = []
    skipped: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    for case, plan in zip(cases, plans, strict=True):
        reasons = [_reason([next(found) for _ in prompt.asked]) for prompt in plan]
        if reasons[0]:
            skipped[reasons[0]] += 1
            continue
        left_out.update(reason for reason in reasons if reason)
        wrong = {prompt.text for prompt, reason in zip(plan, reasons, strict=True) if reason}
        kept.append(_without(case, wrong) if wrong else case)
    return kept, skipped, left_out


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


@dataclass(frozen=True)
class _Prompt:
    """A prompt with the answer that is right for it and the one it is held against."""

    kind: Kind
    text: str
    right: str
    other: str | None
    join: Join

    @property
    def asked(self) -> list[Asked]:
        found = [Asked(self.text, self.right, True, self.join)]
        if self.other is not None:
            found.append(Asked(self.text, self.other, join=self.join))
        return found


def _prompts(case: Case, style: Style) -> list[_Prompt]:
    """All prompts of a case, the edit prompt first."""
    new, true, join = case.target_new, case.target_true, case.join
    found = [_Prompt("edit", case.text, new, true, join)]
    found += [_Prompt("paraphrase", text, new, true, join) for text in case.paraphrase_prompts]
    neighbors = list(case.unrelated)
    if true is not None:
        neighbors += [Question(text, true) for text in case.neighborhood_prompts]
    other = new if style is Style.CONTRAST else None
    found += [_Prompt("neighbor", one.prompt, one.answer, other, join) for one in neighbors]
    implied = case.portability
    found += [_Prompt("portability", one.prompt, one.answer, None, join) for one in implied]
    return found


def _judged(prompt: _Prompt, style: Style, readings: Iterator[Reading]) -> PromptRecord:
    right = next(readings)
    other = None if prompt.other is None else next(readings)
    if style is Style.CONTRAST and other is not None:
        value = float(right.mean > other.mean)
    else:
        value = right.hits / right.tokens
    p_other = None if other is None else exp(other.mean)
    return PromptRecord(
        prompt.kind, prompt.text, prompt.right, exp(right.mean), p_other, value, right.writes
    )


def _record(case: Case, prompts: list[PromptRecord]) -> CaseRecord:
    kinds: dict[Kind, list[PromptRecord]] = {}
    for prompt in prompts:
        kinds.setdefault(prompt.kind, []).append(prompt)

    def mean(kind: Kind) -> float | None:
        return fmean(p.value for p in kinds[kind]) if kind in kinds else None

    def greedy(kind: Kind) -> float | None:
        return fmean(p.writes for p in kinds[kind]) if kind in kinds else None

    def margin(kind: Kind) -> float | None:
        pairs = [(p.p_right, p.p_other) for p in kinds.get(kind, [])]
        held = [right - other for right, other in pairs if other is not None]
        return fmean(held) if held else None

    [edit] = kinds["edit"]
    scores = CaseScores(
        edit.value,
        mean("paraphrase"),
        mean("neighbor"),
        float(edit.writes),
        greedy("paraphrase"),
        greedy("neighbor"),
        margin("edit"),
        margin("paraphrase"),
        margin("neighbor"),
        mean("portability"),
    )
    return CaseRecord(
        case.id, case.subject, case.text, case.target_new, case.target_true, scores, tuple(prompts)
    )


def _reason(found: Sequence[AnswerTokens | str]) -> str:
    """Why a prompt cannot be asked, or nothing."""
    return next((one for one in found if isinstance(one, str)), "")


def _without(case: Case, wrong: set[str]) -> Case:
    def asked(questions: tuple[Question, ...]) -> tuple[Question, ...]:
        return tuple(one for one in questions if one.prompt not in wrong)

    def usable(prompts: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(text for text in prompts if text not in wrong)

    return replace(
        case,
        paraphrase_prompts=usable(case.paraphrase_prompts),
        neighborhood_prompts=usable(case.neighborhood_prompts),
        unrelated=asked(case.unrelated),
        portability=asked(case.portability),
    )
