"""Losses in reading a file of records, for suites and for edits."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pydantic import BaseModel, Field

from jeep_core.suites import Report

SHOWN_PROBLEMS = 20
"""Problems of a file that an answer shows; more are counted."""


class SuiteProblem(BaseModel):
    """A record, or a part of one, that is lost: line from 1, record from 0, and why.

    There is no line where the records were values of a JSON body.
    """

    line: int | None
    record: int | None
    field: str
    code: str
    message: str


class Losses(BaseModel):
    """The losses and changes in reading a file.

    ``dropped`` says how many records are not kept, by reason, and ``left_out`` how many parts of
    records that are; ``problems`` are the first of both.  ``adapted`` counts texts that are read
    otherwise than written, ``unread`` fields, by name, that have no meaning in the format.
    """

    dropped: dict[str, int] = Field(default_factory=dict)
    left_out: dict[str, int] = Field(default_factory=dict)
    adapted: dict[str, int] = Field(default_factory=dict)
    unread: dict[str, int] = Field(default_factory=dict)
    problems: list[SuiteProblem] = Field(default_factory=list)


class Imported(Losses):
    """The import of facts from records of a suite's format: ``facts`` made from ``records``.

    ``left_out`` also counts parts that facts do not have: questions used only for measuring,
    and aliases.
    """

    format: str
    records: int
    facts: int

    def count_lost(self, problem: SuiteProblem) -> None:
        """Count a record whose fact cannot be edited after all."""
        self.facts -= 1
        self.dropped[problem.code] = self.dropped.get(problem.code, 0) + 1
        if len(self.problems) < SHOWN_PROBLEMS:
            self.problems.append(problem)


def losses(report: Report) -> dict[str, Any]:
    """The lost records and parts of a report, as fields of an answer."""
    return {
        "dropped": dict(report.dropped),
        "left_out": dict(report.left_out),
        "adapted": dict(report.adapted),
        "unread": dict(report.unread),
        "problems": [SuiteProblem(**asdict(one)) for one in report.problems[:SHOWN_PROBLEMS]],
    }


def imported_from(report: Report, facts: int) -> Imported:
    """Return what became of records that were read for their facts."""
    return Imported(format=report.format, records=report.records, facts=facts, **losses(report))
