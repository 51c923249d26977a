"""CounterFact and Multi-CounterFact: ``counterfact.json``, ``multi_counterfact.json``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from jeep_core.suites.cases import Case, Style
from jeep_core.suites.fields import (
    Malformed,
    Notes,
    Record,
    Unusable,
    case_id,
    part,
    prompts,
    subject_of,
    template,
    text,
)

NAME = "counterfact"
REWRITE = "requested_rewrite"
TRUE_FIELD = f"{REWRITE}/target_true"


def matches(record: Record) -> bool:
    """Whether a record looks like one of this format."""
    return REWRITE in record and not isinstance(record[REWRITE], list)


def style(records: Sequence[Record]) -> Style:
    """New against true answer."""
    return Style.CONTRAST


def cases(record: Record, number: int, notes: Notes) -> tuple[Case, ...]:
    """The case of one record.

    Raises:
        Malformed: a field is missing or of the wrong form.
        Unusable: the prompt lacks the subject, or both answers are the same.
    """
    case = Case(*rewrite(part(record, REWRITE), f"{REWRITE}/", notes))
    return (tested(record, number, case, notes),)


def rewrite(record: Record, where: str, notes: Notes) -> tuple[str, str, str, str | None]:
    """Subject, template, new answer and, if there is one, true answer of a rewrite.

    Raises:
        Malformed: a field is missing or of the wrong form.
        Unusable: the prompt lacks the subject, or both answers are the same.
    """
    prompt, subject = text(record, "prompt", where), subject_of(record, "subject", where)
    try:
        prompt, subject = template(prompt, subject, f"{where}prompt", notes)
    except Unusable as error:  # these formats promise a template
        raise Malformed(error.field, "slots", error.message) from None
    new = text(part(record, "target_new", where), "str", f"{where}target_new/")
    true = None
    if record.get("target_true") is not None:
        true = text(part(record, "target_true", where), "str", f"{where}target_true/")
    if new == true:
        raise Unusable(f"{where}target_new", "same_target", f"new and true answer are {new!r}")
    return subject, prompt, new, true


def tested(record: Record, number: int, case: Case, notes: Notes) -> Case:
    """The case with the prompts listed beside its rewrite."""
    neighbors = prompts(record, "neighborhood_prompts", case.subject, notes)
    if case.target_true is None:
        for i, prompt in enumerate(neighbors):
            message = f"no answer is given to {prompt!r}: target_true is missing"
            notes.leave_out(f"neighborhood_prompts/{i}", "neighbor_without_answer", message)
    return replace(
        case,
        paraphrase_prompts=prompts(record, "paraphrase_prompts", case.subject, notes),
        neighborhood_prompts=() if case.target_true is None else neighbors,
        id=case_id(record, number),
        generation_prompts=prompts(record, "generation_prompts", case.subject, notes),
    )
