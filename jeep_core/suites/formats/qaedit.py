"""QAEdit: ``prompt, target, subject, rephrase`` and ``locality``, a list of ``{loc, loc_ans}``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
from jeep_core.suites.questions import answers, asked

NAME = "qaedit"


def matches(record: Record) -> bool:
    """Whether a record looks like one of this format; a fact with ``target_new`` does not."""
    own = "prompt" in record and "target" in record and "subject" in record
    return own and "target_new" not in record


def style(records: Sequence[Record]) -> Style:
    """Tokens of the right answer."""
    return Style.ACCURACY


def cases(record: Record, number: int, notes: Notes) -> tuple[Case, ...]:
    """The case of one record; questions without an answer are noted.

    Raises:
        Malformed: a field is missing or of the wrong form.
        Unusable: the prompt lacks the subject.
    """
    new = answers(record.get("target"), "target")
    if not new:
        raise Malformed("target", "empty", "target is empty")
    prompt, subject = template(text(record, "prompt"), subject_of(record), "prompt", notes)
    case = Case(
        subject,
        prompt,
        new[0],
        paraphrase_prompts=prompts(record, "rephrase", subject, notes),
        id=case_id(record, number),
        unrelated=tuple(_locality(record, subject, notes)),
        target_aliases=new[1:],
    )
    return (case,)


def _locality(record: Record, subject: str, notes: Notes) -> list[Question]:
    items = record.get("locality")
    if isinstance(items, Mapping):
        items = [items]
    if items is not None and not isinstance(items, list):
        raise Malformed("locality", "not_a_list", "locality must be a list of {loc, loc_ans}")
    found: list[Question] = []
    for i, item in enumerate(items or []):
        where = f"locality/{i}"
        if not isinstance(item, Mapping):
            raise Malformed(where, "not_an_object", f"{where} must be an object")
        found += asked(item.get("loc"), item.get("loc_ans"), subject, where, notes)
    return found
