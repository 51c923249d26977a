"""zsRE as MEND's authors prepared it: ``zsre_mend_eval.json``.

The edit is ``src`` with ``{}`` for the subject, answered by ``answers[0]``.  ``loc`` keeps its
"nq question: " and gets a question mark.
"""

from __future__ import annotations

from collections import Counter

from jeep_core.evaluation.suites.cases import Case, Question, Style
from jeep_core.evaluation.suites.fields import Malformed, Record, case_id, template, text, texts

NAME = "zsre"
STYLE = Style.ACCURACY


def matches(record: Record) -> bool:
    """Whether a record looks like one of this format."""
    return "src" in record and ("answers" in record or "loc" in record)


def case(record: Record, number: int, left_out: Counter[str]) -> Case:
    """One record.

    Raises:
        Malformed; Unusable: ``src`` lacks the subject.
    """
    subject, question = text(record, "subject"), text(record, "src")
    answers = texts(record, "answers")
    if not answers:
        raise Malformed("answers", "empty", "answers is missing or empty")
    rephrase = text(record, "rephrase")
    unrelated = Question(text(record, "loc").rstrip() + "?", text(record, "loc_ans"))
    return Case(
        subject,
        template(question, subject, "src"),
        answers[0],
        paraphrase_prompts=(rephrase,),
        id=case_id(record, number),
        unrelated=(unrelated,),
    )
