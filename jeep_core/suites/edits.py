"""Records of suites as facts to edit, without the questions that only measure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from jeep_core.errors import InvalidFacts
from jeep_core.spec.facts import Fact, deduplicate
from jeep_core.suites.cases import Case, RecordProblem
from jeep_core.suites.columns import is_columns, rows
from jeep_core.suites.formats import plain
from jeep_core.suites.formats.registry import detect
from jeep_core.suites.loading import SuiteReader
from jeep_core.suites.records import WRAPPERS, unwrapped


@dataclass(frozen=True)
class Sourced:
    """A fact with its record's first line (from 1) and index (from 0)."""

    fact: Fact
    line: int
    record: int


def facts_of(reader: SuiteReader) -> list[Sourced]:
    """The facts of a suite.

    ``reader.report`` then also counts parts that a fact cannot hold (``unrelated_question``,
    ``portability_question``, ``generation_prompt``, ``alias``) and facts that contradict an
    earlier one, which are dropped.

    Raises:
        InvalidSuite: the file has a record of the wrong form, or none that can be edited.
    """
    found = []
    for case in reader:
        found.append(Sourced(_fact(case, reader.report.left_out), reader.line, reader.number))
    try:
        deduplicate([one.fact for one in found])
    except InvalidFacts as error:
        wrong = {int(problem.pointer.split("/")[2]) for problem in error.problems}
        for i in sorted(wrong):
            message = f"an earlier record gives another answer to {found[i].fact.text!r}"
            lost = found[i].line, found[i].record, "", "contradiction", message
            reader.report.drop(RecordProblem(*lost))
        found = [one for i, one in enumerate(found) if i not in wrong]
    return found


def _fact(case: Case, left_out: Counter[str]) -> Fact:
    """The fact of a case; unrelated questions that the true answer answers are its neighbors."""
    fact = Fact(**{field.name: getattr(case, field.name) for field in fields(Fact)})
    neighbors = [one.prompt for one in case.unrelated if one.answer == case.target_true]
    questions = (*case.unrelated, *case.portability)
    aliases = len(case.target_aliases) + len(case.true_aliases)
    lost = {
        "unrelated_question": len(case.unrelated) - len(neighbors),
        "portability_question": len(case.portability),
        "generation_prompt": len(case.generation_prompts),
        "alias": aliases + sum(len(one.aliases) for one in questions),
    }
    left_out.update({name: count for name, count in lost.items() if count})
    return replace(fact, neighborhood_prompts=(*fact.neighborhood_prompts, *neighbors))


def foreign_records(value: Any) -> list[Any] | None:
    """The records in a JSON value that has the form of a suite and not of plain facts, or None.

    It may be a record, a list of them, an object with such a list, or the arguments of an
    EasyEdit call, whose fields hold one entry per fact.

    Raises:
        Malformed: columns of such arguments have other lengths, or one is missing.
    """
    if isinstance(value, list):
        return value if any(map(is_foreign, value)) else None
    if not isinstance(value, Mapping):
        return None
    for name in WRAPPERS:
        if isinstance(value.get(name), list):
            return foreign_records(value[name])
    if is_columns(value):
        return rows(value)
    return [value] if is_foreign(value) else None


def is_foreign(value: Any) -> bool:
    """Whether a value is a record of a format other than plain facts."""
    format = detect(unwrapped(value))
    return format is not None and format.NAME != plain.NAME
