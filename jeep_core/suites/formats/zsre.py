"""zsRE as MEND's authors prepared it: ``zsre_mend_eval.json``, and with EasyEdit's portability.

The edit is ``src`` with ``{}`` for the subject, answered by ``answers[0]``; the other answers are
aliases.  ``loc`` keeps its "nq question: " and gets a question mark if it has none.
``portability`` is one question, in ``New Question`` and ``New Answer``, or as in KnowEdit.
``alt``, ``pred`` and ``cond`` belong to other experiments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

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
from jeep_core.suites.questions import answers, asked, groups

NAME = "zsre"
NEW_QUESTION, NEW_ANSWER = "New Question", "New Answer"


def matches(record: Record) -> bool:
    """Whether a record looks like one of this format."""
    return "src" in record and ("answers" in record or "loc" in record)


def style(records: Sequence[Record]) -> Style:
    """Tokens of the right answer."""
    return Style.ACCURACY


def cases(record: Record, number: int, notes: Notes) -> tuple[Case, ...]:
    """The case of one record.

    Raises:
        Malformed: a field is missing or of the wrong form.
        Unusable: ``src`` lacks the subject.
    """
    subject, question = subject_of(record), text(record, "src")
    new = answers(record.get("answers"), "answers")
    if not new:
        raise Malformed("answers", "empty", "answers is missing or empty")
    for name in ("rephrase", "loc", "loc_ans"):
        if not isinstance(record.get(name), list):
            text(record, name)
    unrelated = [
        replace(one, prompt=_question(one.prompt.rstrip()))
        for one in asked(record["loc"], record["loc_ans"], subject, "loc", notes)
    ]
    prompt, subject = template(question, subject, "src", notes)
    case = Case(
        subject,
        prompt,
        new[0],
        paraphrase_prompts=prompts(record, "rephrase", subject, notes),
        id=case_id(record, number),
        unrelated=tuple(unrelated),
        portability=tuple(_portability(record, subject, notes)),
        target_aliases=new[1:],
    )
    return (case,)


def _question(prompt: str) -> str:
    return prompt if prompt.endswith(("?", "？")) else f"{prompt}?"


def _portability(record: Record, subject: str, notes: Notes) -> list[Question]:
    given = record.get("portability")
    if isinstance(given, Mapping) and NEW_QUESTION in given:
        where, answer = f"portability/{NEW_QUESTION}", given.get(NEW_ANSWER)
        return asked(given[NEW_QUESTION], answer, subject, where, notes, NEW_QUESTION)
    return groups(record, "portability", subject, notes)
