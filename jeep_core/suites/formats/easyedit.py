"""EasyEdit's flat records: CounterFact with one paraphrase and one neighbor, and similar ones.

``prompt, subject, target_new`` with ``ground_truth``, ``rephrase_prompt``, ``locality_prompt``
and ``locality_ground_truth``, ``portability_prompt`` and ``portability_ground_truth``.  Fields of
questions may be lists.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jeep_core.suites.cases import Case, Style
from jeep_core.suites.fields import Notes, Record
from jeep_core.suites.formats import knowedit

NAME = "easyedit"
TRUE_FIELD = knowedit.TRUE_FIELD
NEEDED = {"prompt", "subject", "target_new"}
OWN = {"ground_truth", "rephrase_prompt", "locality_prompt", "portability_prompt"}
NESTED = {"src", "locality", "portability"}


def matches(record: Record) -> bool:
    """Whether a record looks like one of this format."""
    keys = record.keys()
    return keys >= NEEDED and bool(OWN & keys) and not NESTED & keys


def style(records: Sequence[Record]) -> Style:
    """New against true answer where the true ones also answer the neighbors, as in CounterFact."""
    known = [record for record in records if record.get(TRUE_FIELD)]
    shared = all(
        _listed(record[TRUE_FIELD]) == _listed(record.get("locality_ground_truth"))
        for record in known
    )
    return Style.CONTRAST if known and shared else Style.ACCURACY


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def cases(record: Record, number: int, notes: Notes) -> tuple[Case, ...]:
    """The case of one record; questions without an answer are noted.

    Raises:
        Malformed: a field is missing or of the wrong form.
        Unusable: the prompt lacks the subject.
    """
    return knowedit.cases(record, number, notes)
