"""Units of what is asked together: cases of an evaluation, and facts, with whether they hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jeep_core.errors import Cancelled, JeepError
from jeep_core.evaluation.metrics import CaseRecord, measure
from jeep_core.evaluation.outcomes import ANSWER_TOKENS, said
from jeep_core.executors.here import HERE
from jeep_core.executors.work import Bench, Executor, Keep, Work, keep_nothing
from jeep_core.models.views import ModelView
from jeep_core.monitor import NOTHING, Monitor
from jeep_core.spec.facts import Fact
from jeep_core.spec.hparams import Contexts
from jeep_core.suites import Style

TASK = "jeep_core.evaluation.units:measure_unit"
CASES_TOGETHER = 128
"""Cases of a unit, the last one excepted: cut from the first case on, so that a job that goes on
after some of them cuts the rest in the same way."""

REPLIES = "jeep_core.evaluation.units:replies_unit"
FACTS_TOGETHER = 64
"""Facts of a unit, the last one of a way of asking excepted."""
BRIEF = 1
"""Tokens of an answer of which only counts whether it is the new one."""


def measure_apart(
    view: ModelView,
    cases: Sequence[Fact],
    style: Style,
    *,
    executor: Executor = HERE,
    monitor: Monitor = NOTHING,
    keep: Keep = keep_nothing,
) -> list[CaseRecord]:
    """The record of every case, by units that ``executor`` does; cases are reported as "score".

    ``keep`` is given each unit's records, in the order of the cases.

    Raises:
        JeepError: a prompt cannot be asked; see ``fitting``.
        WorkersLost, NoCluster: the executor's workers are gone.
        Whatever ``monitor.check`` raises.
    """
    units = [
        list(cases[start : start + CASES_TOGETHER])
        for start in range(0, len(cases), CASES_TOGETHER)
    ]
    work = Work(TASK, "score", style, units, [len(unit) for unit in units])
    found = executor.run(work, Bench(view, monitor), keep)
    return [record for records in found for record in records]


def measure_unit(bench: Bench, common: Style, unit: Sequence[Fact]) -> list[CaseRecord]:
    """The records of a unit's cases; cases, not rows, are reported."""
    report = bench.monitor.report

    def in_cases(phase: str, done: int, rows: int) -> None:
        report(phase, done * len(unit) // rows, len(unit))

    return measure(bench.view, unit, common, bench.monitor.reporting(in_cases))


@dataclass(frozen=True)
class Told:
    """The greedy answer to a fact, and whether it is the new one, all of it and as whole words."""

    text: str
    holds: bool


@dataclass(frozen=True)
class NotAsked:
    """The code and the sentence of what kept a fact from being asked."""

    code: str
    why: str


Asked = tuple[Contexts, Fact]
"""A fact and the ways in which it is asked."""


def replies(
    view: ModelView,
    facts: Sequence[Fact],
    contexts: Contexts,
    monitor: Monitor = NOTHING,
    tokens: int = ANSWER_TOKENS,
) -> list[Told]:
    """A version's answers to facts in the ways that ``contexts`` names; ``tokens`` as in `said`.

    A fact holds if the new answer is written in each of them; the text is that of the first.

    Raises:
        NumericalError: a probability is not finite.
        InvalidFacts: a fact has no form in a chat, and the model no template.
        Whatever ``monitor.check`` raises.
    """
    heard = said(view, facts, contexts, monitor, tokens)
    return [
        Told(first.text, all(one.writes_new for one in (first, *heard.chat[n : n + 1])))
        for n, first in enumerate(heard.answers)
    ]


def asked_apart(
    view: ModelView,
    facts: Sequence[Asked],
    *,
    executor: Executor = HERE,
    monitor: Monitor = NOTHING,
    keep: Keep = keep_nothing,
) -> list[Told | NotAsked]:
    """A version's answers to facts, by units that ``executor`` does; reported as "ask".

    Of those that do not hold the whole answer is written.  A fact that cannot be asked takes no
    other one with it.  ``keep`` is given each unit's answers, in the order of the facts.

    Raises:
        WorkersLost, NoCluster: the executor's workers are gone.
        Whatever ``monitor.check`` raises.
    """
    units = _cut(facts)
    work = Work(REPLIES, "ask", None, units, [len(unit) for _, unit in units])
    found = executor.run(work, Bench(view, monitor), keep)
    return [one for some in found for one in some]


def _cut(facts: Sequence[Asked]) -> list[tuple[Contexts, list[Fact]]]:
    """Facts that follow one another and are asked in the same way, so many at a time."""
    units: list[tuple[Contexts, list[Fact]]] = []
    for contexts, fact in facts:
        if not units or units[-1][0] != contexts or len(units[-1][1]) == FACTS_TOGETHER:
            units.append((contexts, []))
        units[-1][1].append(fact)
    return units


def replies_unit(
    bench: Bench, common: None, unit: tuple[Contexts, Sequence[Fact]]
) -> list[Told | NotAsked]:
    """The answers to a unit's facts."""
    contexts, facts = unit
    found = _whatever_can_be_asked(bench, facts, contexts, BRIEF)
    missing = [i for i, one in enumerate(found) if isinstance(one, Told) and not one.holds]
    if missing:
        whole = _whatever_can_be_asked(bench, [facts[i] for i in missing], contexts)
        for i, one in zip(missing, whole, strict=True):
            # whether it holds is known already, and as every other fact's
            found[i] = Told(one.text, False) if isinstance(one, Told) else one
    return found


def _whatever_can_be_asked(
    bench: Bench, facts: Sequence[Fact], contexts: Contexts, tokens: int = ANSWER_TOKENS
) -> list[Told | NotAsked]:
    """As `replies`; where that fails, fact by fact."""
    try:
        return list(replies(bench.view, facts, contexts, bench.monitor, tokens))
    except Cancelled:
        raise
    except JeepError as error:
        if len(facts) == 1:
            return [NotAsked(error.code, str(error))]
    return [
        one for fact in facts for one in _whatever_can_be_asked(bench, [fact], contexts, tokens)
    ]
