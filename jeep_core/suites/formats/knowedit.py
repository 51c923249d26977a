"""KnowEdit: wiki_recent, wiki_counterfact, WikiBio and ZsRE.

The subsets name their fields differently: the subject is ``subject`` or ``concept``, the prompt
``prompt`` or ``text``, the answer ``target_new`` or ``labels``, the rephrased prompt
``rephrase_prompt`` or ``rephrase``.  ``locality`` and ``portability`` are objects of lists of
``{prompt, ground_truth}``; a ground truth is a text, a list of texts, or a list of lists of
texts, all of which are right.  Questions without an answer are left out and counted.
ConvSent and Sanitation edit no facts and are not read.
"""

from __future__ import annotations

from collections.abc import Sequence

from jeep_core.suites.cases import Case, Style
from jeep_core.suites.fields import (
    EMPTY,
    Malformed,
    Notes,
    Record,
    case_id,
    prompts,
    subject_of,
    template,
    text,
)
from jeep_core.suites.questions import answers, flat, groups, old_answers

NAME = "knowedit"
TRUE_FIELD = "ground_truth"
OWN = {
    "concept", "labels", "ground_truth", "rephrase_prompt", "rephrase", "locality", "portability",
    "locality_prompt",
}  # fmt: skip


def matches(record: Record) -> bool:
    """Whether a record looks like one of this format."""
    answered = "target_new" in record or "labels" in record
    return answered and "src" not in record and bool(OWN & record.keys())


def style(records: Sequence[Record]) -> Style:
    """Tokens of the right answer."""
    return Style.ACCURACY


def cases(record: Record, number: int, notes: Notes) -> tuple[Case, ...]:
    """The case of one record; questions without an answer are noted.

    Raises:
        Malformed: a field is missing or of the wrong form.
        Unusable: the prompt lacks the subject.
    """
    prompt_field = _first(record, "prompt", "text")
    answer_field = _first(record, "target_new", "labels")
    subject = subject_of(record, _first(record, "subject", "concept"))
    new = answers(record[answer_field], answer_field)
    if not new:
        raise Malformed(answer_field, "empty", f"{answer_field} is empty")
    prompt, subject = template(text(record, prompt_field), subject, prompt_field, notes)
    true = old_answers(record.get(TRUE_FIELD), new, TRUE_FIELD, notes)
    rephrased = _first(record, "rephrase_prompt", "rephrase", needed=False)
    unrelated = groups(record, "locality", subject, notes)
    portability = groups(record, "portability", subject, notes)
    case = Case(
        subject,
        prompt,
        new[0],
        true[0] if true else None,
        prompts(record, rephrased, subject, notes),
        id=case_id(record, number),
        unrelated=(*unrelated, *flat(record, "locality", subject, notes)),
        portability=(*portability, *flat(record, "portability", subject, notes)),
        target_aliases=new[1:],
        true_aliases=true[1:],
    )
    return (case,)


def _first(record: Record, *names: str, needed: bool = True) -> str:
    """The first of these names that a record has a value for, else the first that it has."""
    there = [name for name in names if name in record]
    for name in sorted(there, key=lambda name: record[name] in EMPTY):
        return name
    if needed:
        raise Malformed(names[0], "missing", f"{' or '.join(names)} is missing")
    return names[0]
