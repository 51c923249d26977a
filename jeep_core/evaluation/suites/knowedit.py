"""KnowEdit: wiki_recent, wiki_counterfact, WikiBio and ZsRE; and EasyEdit's flat CounterFact.

The subsets name their fields differently: the subject is ``subject`` or ``concept``, the prompt
``prompt`` or ``text``, the answer ``target_new`` or ``labels``, the rephrased prompt
``rephrase_prompt`` or ``rephrase``.  ``locality`` and ``portability`` are objects of lists of
``{prompt, ground_truth}``; a ground truth is a text, a list of texts, or a list of lists of
aliases, of which the first text is taken.  Questions without an answer are left out and counted.
ConvSent and Sanitation edit no facts and are not read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from jeep_core.evaluation.suites.cases import Case, Question, Style
from jeep_core.evaluation.suites.fields import (
    Malformed,
    Record,
    as_text,
    case_id,
    template,
    text,
    texts,
)

NAME = "knowedit"
STYLE = Style.ACCURACY
OWN = {
    "concept", "labels", "ground_truth", "rephrase_prompt", "rephrase", "locality", "portability",
    "locality_prompt",
}  # fmt: skip


def matches(record: Record) -> bool:
    """Whether a record looks like one of this format."""
    answered = "target_new" in record or "labels" in record
    return answered and "src" not in record and bool(OWN & record.keys())


def case(record: Record, number: int, left_out: Counter[str]) -> Case:
    """One record; ``left_out`` counts questions without an answer.

    Raises:
        Malformed; Unusable: the prompt lacks the subject.
    """
    prompt_field = _first(record, "prompt", "text")
    answer_field = _first(record, "target_new", "labels")
    subject = text(record, _first(record, "subject", "concept"))
    prompt = template(text(record, prompt_field), subject, prompt_field)
    new = _leaf(record[answer_field], answer_field)
    if new is None:
        raise Malformed(answer_field, "empty", f"{answer_field} is empty")
    unrelated = _questions(record, "locality", left_out)
    if record.get("locality_prompt"):
        single = {"prompt": record["locality_prompt"], "ground_truth": None}
        single["ground_truth"] = record.get("locality_ground_truth")
        unrelated += _answered([single], "locality_prompt", left_out)
    return Case(
        subject,
        prompt,
        new,
        _leaf(record.get("ground_truth"), "ground_truth"),
        texts(record, _first(record, "rephrase_prompt", "rephrase", needed=False)),
        id=case_id(record, number),
        unrelated=tuple(unrelated),
        portability=tuple(_questions(record, "portability", left_out)),
    )


def _first(record: Record, *names: str, needed: bool = True) -> str:
    """The first of these names that a record has."""
    for name in names:
        if name in record:
            return name
    if needed:
        raise Malformed(names[0], "missing", f"{' or '.join(names)} is missing")
    return names[0]


def _questions(record: Record, name: str, left_out: Counter[str]) -> list[Question]:
    groups = record.get(name)
    if groups is None:
        return []
    if not isinstance(groups, Mapping):
        raise Malformed(name, "not_an_object", f"{name} must be an object")
    found: list[Question] = []
    for group, items in groups.items():
        where = f"{name}/{group}"
        if items is not None and not isinstance(items, list):
            raise Malformed(where, "not_a_list", f"{where} must be a list")
        found += _answered(items or [], where, left_out)
    return found


def _answered(items: list[Any], where: str, left_out: Counter[str]) -> list[Question]:
    found = []
    for i, item in enumerate(items):
        if not isinstance(item, Mapping):
            raise Malformed(f"{where}/{i}", "not_an_object", f"{where}/{i} must be an object")
        prompt = _leaf(item.get("prompt"), f"{where}/{i}/prompt")
        answer = _leaf(item.get("ground_truth"), f"{where}/{i}/ground_truth")
        if prompt is None or answer is None:
            left_out["question_without_answer"] += 1
        else:
            found.append(Question(prompt, answer))
    return found


def _leaf(value: Any, where: str) -> str | None:
    """The first text of a text, a list of texts or a list of lists; None if there is none."""
    while isinstance(value, list):
        value = value[0] if value else None
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    return as_text(value, where)
