"""Efficacy, generalization, locality and their harmonic mean (paper, appendix C).

Contrast style (CounterFact): the new answer against the true one on the edit prompt and its
paraphrases, the right answer against the new one on neighborhood prompts.  P of an answer of
several tokens is that of its mean log-probability per token; a tie is no success for either.

Accuracy style (zsRE): the share of the right answer's tokens that are the arg-max, each after
the right tokens before it.

Where an answer has aliases, the one that does best counts: the most probable one in contrast
style, on both sides, and the one with the largest share in accuracy style.  A prompt's answer is
written if any of them is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from math import exp
from statistics import fmean
from typing import Any, Literal

from jeep_core.decoding.scoring import AnswerTokens, Asked, Reading, read, tokenized
from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView
from jeep_core.monitor import NOTHING, Monitor
from jeep_core.spec.facts import Fact
from jeep_core.suites import Case, Question, Style
from jeep_core.text.joining import Join

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
    the answer that it is compared with.  ``value`` enters the case's mean.  ``right`` is, of
    several right answers, the one that these figures are about.  ``group``: of a portability
    question, as its data set has it.
    """

    kind: Kind
    prompt: str
    right: str
    p_right: float
    p_other: float | None
    value: float
    writes: bool
    group: str = ""


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
        """One flat object: the scores beside the case's own fields.

        Groups of portability questions have a score of their own, ``portability/GROUP``.
        """
        found = asdict(self)
        groups = by_group("portability", [(one.group, one.value) for one in self.prompts])
        return {**found, **found.pop("scores"), **groups, "prompts": found.pop("prompts")}


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


def by_group(metric: str, values: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Means of values by their group as ``METRIC/GROUP``; those without a group have none."""
    groups: dict[str, list[float]] = {}
    for group, value in values:
        if group:
            groups.setdefault(f"{metric}/{group}", []).append(value)
    return {name: fmean(some) for name, some in groups.items()}


def harmonic_mean(values: Sequence[float]) -> float:
    """0 if any value is 0."""
    return 0.0 if min(values) <= 0 else len(values) / sum(1 / value for value in values)


def measure(
    view: ModelView, cases: Sequence[Fact], style: Style, monitor: Monitor = NOTHING
) -> list[CaseRecord]:
    """The record of every case, all prompts scored together.

    Raises:
        JeepError: a prompt cannot be asked; see ``fitting``.
        Whatever ``monitor.check`` raises; rows done are reported as phase "score".
    """
    known = [case if isinstance(case, Case) else Case(**vars(case)) for case in cases]
    plans = [_prompts(case, style) for case in known]
    asked = [one for plan in plans for prompt in plan for one in prompt.asked]
    readings = iter(read(view, asked, monitor))
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
    """The cases that this model can be measured on, without the prompts that it cannot.

    Returns also how many cases were left out for which reason (their edit prompt cannot be
    asked) and how many prompts and aliases of the cases that stay; reasons as in
    ``scoring.tokenized``.  An alias that one prompt cannot be asked with is left out of the case.
    """
    plans = [_prompts(case, style) for case in cases]
    asked = [one for plan in plans for prompt in plan for one in prompt.asked]
    found = iter(tokenized(base.tokenizer, asked, base.max_positions))
    kept: list[Case] = []
    skipped: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    for case, plan in zip(cases, plans, strict=True):
        lacking: list[str] = []
        wrong: set[str] = set()
        aliases: dict[str, str] = {}
        for prompt in plan:
            reasons = {one.answer: _reason(next(found)) for one in prompt.asked}
            reason = next(filter(None, map(reasons.get, prompt.needed)), "")
            if reason:
                lacking.append(reason)
                wrong.add(prompt.text)
            else:
                aliases |= {answer: why for answer, why in reasons.items() if why}
        if plan[0].text in wrong:
            skipped[lacking[0]] += 1
            continue
        left_out.update([*lacking, *aliases.values()])
        kept.append(_without(case, wrong, aliases) if wrong or aliases else case)
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
    """A prompt with the answers that are right for it and those they are compared with.

    The first of each must be asked, the others are aliases of it.
    """

    kind: Kind
    text: str
    right: tuple[str, ...]
    other: tuple[str, ...]
    join: Join
    group: str = ""

    @property
    def asked(self) -> list[Asked]:
        right = [Asked(self.text, answer, True, self.join) for answer in self.right]
        return [*right, *(Asked(self.text, answer, join=self.join) for answer in self.other)]

    @property
    def needed(self) -> tuple[str, ...]:
        """The answers without which the prompt cannot be asked."""
        return self.right[:1] + self.other[:1]


def _prompts(case: Case, style: Style) -> list[_Prompt]:
    """All prompts of a case, the edit prompt first."""
    new = (case.target_new, *case.target_aliases)
    true = () if case.target_true is None else (case.target_true, *case.true_aliases)
    join = case.join
    found = [_Prompt("edit", case.text, new, true, join)]
    found += [_Prompt("paraphrase", text, new, true, join) for text in case.paraphrase_prompts]
    neighbors = [(one.prompt, one.answers) for one in case.unrelated]
    if true:
        neighbors += [(text, true) for text in case.neighborhood_prompts]
    other = new if style is Style.CONTRAST else ()
    found += [_Prompt("neighbor", text, answers, other, join) for text, answers in neighbors]
    implied = case.portability
    found += [
        _Prompt("portability", one.prompt, one.answers, (), join, one.group) for one in implied
    ]
    return found


def _judged(prompt: _Prompt, style: Style, readings: Iterator[Reading]) -> PromptRecord:
    right = [(next(readings), answer) for answer in prompt.right]
    other = [next(readings).mean for _ in prompt.other]
    writes = any(reading.writes for reading, _ in right)
    if style is Style.CONTRAST and other:
        best, answer = max(right, key=lambda pair: pair[0].mean)
        value = float(best.mean > max(other))
    else:
        best, answer = max(right, key=lambda pair: (_share(pair[0]), pair[0].mean))
        value = _share(best)
    p_other = exp(max(other)) if other else None
    return PromptRecord(
        prompt.kind, prompt.text, answer, exp(best.mean), p_other, value, writes, prompt.group
    )


def _share(reading: Reading) -> float:
    """The share of an answer's tokens that are the arg-max."""
    return reading.hits / reading.tokens


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


def _reason(found: AnswerTokens | str) -> str:
    """Why an answer cannot be asked, or nothing."""
    return found if isinstance(found, str) else ""


def _without(case: Case, wrong: Collection[str], aliases: Collection[str]) -> Case:
    """The case without prompts and aliases that cannot be asked."""

    def usable(texts: tuple[str, ...], not_these: Collection[str]) -> tuple[str, ...]:
        return tuple(text for text in texts if text not in not_these)

    def asked(questions: tuple[Question, ...]) -> tuple[Question, ...]:
        return tuple(
            replace(one, aliases=usable(one.aliases, aliases))
            for one in questions
            if one.prompt not in wrong
        )

    return replace(
        case,
        paraphrase_prompts=usable(case.paraphrase_prompts, wrong),
        neighborhood_prompts=usable(case.neighborhood_prompts, wrong),
        unrelated=asked(case.unrelated),
        portability=asked(case.portability),
        target_aliases=usable(case.target_aliases, aliases),
        true_aliases=usable(case.true_aliases, aliases),
    )
