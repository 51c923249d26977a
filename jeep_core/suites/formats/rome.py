"""Requests as ROME and MEMIT take them: ``prompt`` with ``{}``, ``subject``, ``target_new.str``.

``target_true.str`` and the lists of prompts that CounterFact has may be given as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jeep_core.suites.cases import Case, Style
from jeep_core.suites.fields import Notes, Record
from jeep_core.suites.formats.counterfact import rewrite, tested

NAME = "rome"
TRUE_FIELD = "target_true"


def matches(record: Record) -> bool:
    """Whether a record looks like one of this format."""
    return "prompt" in record and isinstance(record.get("target_new"), Mapping)


def style(records: Sequence[Record]) -> Style:
    """New against true answer, if the first record has a true one."""
    return Style.CONTRAST if records[0].get("target_true") else Style.ACCURACY


def cases(record: Record, number: int, notes: Notes) -> tuple[Case, ...]:
    """The case of one record.

    Raises:
        Malformed: a field is missing or of the wrong form.
        Unusable: the prompt lacks the subject, or both answers are the same.
    """
    return (tested(record, number, Case(*rewrite(record, "", notes)), notes),)
