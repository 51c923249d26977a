"""Rows that an earlier release has kept of a job that this one goes on with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jeep_core.evaluation.free_answers import grouped_scores
from jeep_core.evaluation.metrics import by_group
from jeep_core.suites import Case

Row = dict[str, Any]


def without_groups(rows: Sequence[Row]) -> bool:
    """Whether groups of portability questions were not known where some of the rows were kept."""
    return any("group" not in one for row in rows for one in _prompts(row))


def with_groups(rows: Sequence[Row], cases: Sequence[Case]) -> list[Row]:
    """Rows of the first cases with what they would have today: groups, and scores by them.

    Else a figure by group would be one of the cases that were measured after the upgrade.
    """
    return [
        _with_groups(row, case) if without_groups([row]) else row
        for row, case in zip(rows, cases, strict=False)
    ]


def _with_groups(row: Row, case: Case) -> Row:
    # both are in the order of the case's questions
    implied = [one for one in _prompts(row) if one["kind"] == "portability"]
    for one in _prompts(row):
        one["group"] = ""
    for one, question in zip(implied, case.portability, strict=True):
        one["group"] = question.group
    if "free" in row:
        return row | grouped_scores([(one["group"], one) for one in implied])
    return row | by_group("portability", [(one["group"], one["value"]) for one in implied])


def _prompts(row: Row) -> list[Row]:
    found: list[Row] = row["free"] if "free" in row else row["prompts"]
    return found
