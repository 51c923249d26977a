"""HalluEditBench: CSV with ``subject, relation, object, question`` and questions around the fact.

``object`` answers ``question`` and ``paraphrased_question``.  From the fact follow
``yes_question`` (Yes), ``no_question`` (No), ``reversed_relation_question`` (the subject),
``question_2hop`` to ``question_6hop`` with ``answer_2hop`` …, and ``question`` with the choices of
``multiple_choice_with_letters`` (``multiple_choice_labels``).  ``locality_question`` comes without
an answer, as its authors compare a model with itself: it is left out and counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from jeep_core.suites.cases import Case, Question, Style
from jeep_core.suites.fields import Notes, Record, case_id, prompts, subject_of, template, text
from jeep_core.suites.questions import asked

NAME = "halluedit"
HOPS = range(2, 7)


def matches(record: Record) -> bool:
    """Whether a record looks like one of this format."""
    return "subject" in record and "object" in record and "question" in record


def style(records: Sequence[Record]) -> Style:
    """Tokens of the right answer."""
    return Style.ACCURACY


def cases(record: Record, number: int, notes: Notes) -> tuple[Case, ...]:
    """The case of one record; questions without an answer are noted.

    Raises:
        Malformed: a field is missing or of the wrong form.
        Unusable: the question lacks the subject.
    """
    question, new = text(record, "question"), text(record, "object")
    prompt, subject = template(question, subject_of(record), "question", notes)

    def ask(name: str, answer: Any, before: str = "") -> list[Question]:
        if not record.get(name):
            return []
        found = asked(record[name], answer, subject, name, notes)
        return [replace(one, prompt=before + one.prompt) for one in found]

    portability = [
        *ask("yes_question", "Yes"),
        *ask("no_question", "No"),
        *ask("reversed_relation_question", subject),
    ]
    for hops in HOPS:
        portability += ask(f"question_{hops}hop", record.get(f"answer_{hops}hop"))
    letter = record.get("multiple_choice_labels")
    portability += ask("multiple_choice_with_letters", letter, f"{question} ")
    case = Case(
        subject,
        prompt,
        new,
        paraphrase_prompts=prompts(record, "paraphrased_question", subject, notes),
        id=case_id(record, number),
        unrelated=tuple(ask("locality_question", record.get("locality_answer"))),
        portability=tuple(portability),
    )
    return (case,)
