"""WikiBigEdit: changes of Wikidata as questions, as published or in EasyEdit's flat fields.

Published: ``update`` is the question and ``ans`` its new answer, ``rephrase`` and the fields
that begin with ``personas`` ask the same, ``loc`` with ``loc_ans`` asks something else, and what
``mhop`` with ``mhop_ans`` asks follows from the change.  Flat: EasyEdit's fields without an old
answer.
"""

from __future__ import annotations

from collections.abc import Sequence

from jeep_core.suites.cases import Case, Question, Style
from jeep_core.suites.fields import (
    Malformed,
    Notes,
    Record,
    case_id,
    prompts,
    subject_of,
    template,
    text,
)
from jeep_core.suites.formats import easyedit, knowedit
from jeep_core.suites.questions import answers, asked

NAME = "wikibigedit"
TRUE_FIELD = knowedit.TRUE_FIELD
PERSONAS = "personas"


def matches(record: Record) -> bool:
    """Whether a record looks like one of this format."""
    published = "update" in record and "ans" in record
    return published or (easyedit.matches(record) and easyedit.TRUE_FIELD not in record)


def style(records: Sequence[Record]) -> Style:
    """Tokens of the right answer."""
    return Style.ACCURACY


def cases(record: Record, number: int, notes: Notes) -> tuple[Case, ...]:
    """The case of one record; questions without an answer are noted.

    Raises:
        Malformed: a field is missing or of the wrong form.
        Unusable: the question lacks the subject.
    """
    if "update" not in record:
        return knowedit.cases(record, number, notes)
    new = answers(record.get("ans"), "ans")
    if not new:
        raise Malformed("ans", "empty", "ans is missing or empty")
    question = text(record, "update")
    prompt, subject = template(question, subject_of(record), "update", notes)
    same = ["rephrase", *(name for name in record if name.startswith(PERSONAS))]
    case = Case(
        subject,
        prompt,
        new[0],
        paraphrase_prompts=tuple(
            text for name in same for text in prompts(record, name, subject, notes)
        ),
        id=case_id(record, number),
        unrelated=tuple(_question(record, "loc", subject, notes)),
        portability=tuple(_question(record, "mhop", subject, notes)),
        target_aliases=new[1:],
    )
    return (case,)


def _question(record: Record, name: str, subject: str, notes: Notes) -> list[Question]:
    """The question in ``name`` with its answer in ``<name>_ans``; null where there is none."""
    if not record.get(name):
        return []
    return asked(record[name], record.get(f"{name}_ans"), subject, name, notes)
