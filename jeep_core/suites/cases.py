"""The parts of a suite, and the errors of reading one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from jeep_core.errors import JeepError
from jeep_core.spec.facts import Fact, as_answer

SHOWN = 100
"""Problems that are kept word for word; more are counted."""


class Style(StrEnum):
    """How cases are judged (paper, appendix C).

    ``CONTRAST``: the new answer against the true one, as in CounterFact.
    ``ACCURACY``: tokens of the right answer that are the arg-max, as in zsRE.
    """

    CONTRAST = "contrast"
    ACCURACY = "accuracy"


@dataclass(frozen=True)
class Question:
    """A prompt and its right answer, which an edit shall keep (or imply).

    ``aliases``: other texts that are as right as ``answer``.  ``group``: the field or group of the
    data set that it is from, such as ``reversed_relation_question``; figures are also given by it.
    """

    prompt: str
    answer: str
    aliases: tuple[str, ...] = ()
    group: str = field(default="", compare=False)

    @property
    def answers(self) -> tuple[str, ...]:
        """Every right answer."""
        return (self.answer, *self.aliases)


@dataclass(frozen=True)
class Case(Fact):
    """A fact to edit with all prompts that test it.

    Neighborhood prompts have ``target_true`` for an answer; ``unrelated`` questions bring their
    own.  ``portability``: questions whose answers follow from the new fact.  ``target_aliases``
    and ``true_aliases`` are other right texts for the new and the true answer: an edit writes
    ``target_new``, and evaluation accepts any of them.
    """

    id: str = ""
    unrelated: tuple[Question, ...] = ()
    portability: tuple[Question, ...] = ()
    generation_prompts: tuple[str, ...] = ()
    target_aliases: tuple[str, ...] = ()
    true_aliases: tuple[str, ...] = ()


def trimmed(case: Case) -> Case:
    """The case in the form of facts: no white space after an answer or around a subject.

    Prompts keep theirs, and answers the white space at their beginning.
    """

    def tidy(questions: tuple[Question, ...]) -> tuple[Question, ...]:
        return tuple(
            replace(one, answer=as_answer(one.answer), aliases=answers(one.aliases))
            for one in questions
        )

    def answers(given: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(as_answer, given))

    return replace(
        case,
        subject=case.subject.strip(),
        target_new=as_answer(case.target_new),
        target_true=None if case.target_true is None else as_answer(case.target_true),
        target_aliases=answers(case.target_aliases),
        true_aliases=answers(case.true_aliases),
        unrelated=tidy(case.unrelated),
        portability=tidy(case.portability),
    )


@dataclass(frozen=True)
class RecordProblem:
    """A problem of record ``record`` (from 0), which begins in line ``line`` (from 1).

    ``record`` is None where the file as a whole is at fault, ``field`` empty where no single
    field is.
    """

    line: int
    record: int | None
    field: str
    code: str
    message: str

    def __str__(self) -> str:
        where = "" if self.record is None else f", record {self.record}"
        return f"line {self.line}{where}{of_field(self.field, self.message)}: {self.message}"


def of_field(field: str, message: str) -> str:
    """``, field`` for the place of a problem; nothing where the message begins with it."""
    return "" if not field or message.startswith(field) else f", {field}"


class InvalidSuite(JeepError):
    """A file that is not a suite; ``count`` problems, the first ones word for word."""

    code = "invalid_suite"

    def __init__(self, problems: Sequence[RecordProblem], count: int | None = None) -> None:
        self.problems = list(problems)
        self.count = len(self.problems) if count is None else count
        more = f" (and {self.count - 1} more)" if self.count > 1 else ""
        super().__init__(f"{self.problems[0]}{more}")


@dataclass
class Report:
    """How reading went.

    ``records`` were read, ``kept`` of them became ``cases`` cases, and of the others ``dropped``
    says how many for which reason.  ``left_out`` counts, by reason, parts of records that were
    kept; ``adapted`` values that are read otherwise than written; ``unread`` fields, by name, that
    the format gives no meaning to.  ``prompts`` counts what the cases have, by kind (``edit``,
    ``paraphrase``, ``neighbor``, ``portability``, ``generation``) and their ``alias``es.
    ``problems`` are the first records and parts that are lost, with the reason in full.
    """

    format: str = ""
    records: int = 0
    kept: int = 0
    cases: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    adapted: Counter[str] = field(default_factory=Counter)
    unread: Counter[str] = field(default_factory=Counter)
    prompts: Counter[str] = field(default_factory=Counter)
    problems: list[RecordProblem] = field(default_factory=list)

    def drop(self, problem: RecordProblem) -> None:
        """Count a record that becomes no case."""
        self.dropped[problem.code] += 1
        self._show(problem)

    def leave_out(self, problem: RecordProblem) -> None:
        """Count a part of a record that is kept without it."""
        self.left_out[problem.code] += 1
        self._show(problem)

    def keep(self, cases: Sequence[Case]) -> None:
        """Count the cases of one record and their prompts."""
        self.kept += 1
        self.cases += len(cases)
        for case in cases:
            questions = (*case.unrelated, *case.portability)
            aliases = len(case.target_aliases) + len(case.true_aliases)
            self.prompts.update(
                edit=1,
                paraphrase=len(case.paraphrase_prompts),
                neighbor=len(case.neighborhood_prompts) + len(case.unrelated),
                portability=len(case.portability),
                generation=len(case.generation_prompts),
                alias=aliases + sum(len(one.aliases) for one in questions),
            )

    def _show(self, problem: RecordProblem) -> None:
        if len(self.problems) < SHOWN:
            self.problems.append(problem)


@dataclass(frozen=True)
class Suite:
    """Cases that are judged the same way."""

    name: str
    cases: tuple[Case, ...]
    style: Style
    report: Report = field(default_factory=Report, compare=False)

    @property
    def dropped(self) -> int:
        """How many records became no case."""
        return self.report.dropped.total()
