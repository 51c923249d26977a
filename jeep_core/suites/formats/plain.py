"""Plain facts, as ``POST /edits`` takes them: JSON lines, a JSON list, or CSV with a header.

Beside the fields of a fact, ``join`` among them: ``case_id``, ``generation_prompts``, and
``neighborhood_answers`` where the neighbors have other right answers than ``target_true``.  In CSV
a list is a JSON list or one text per line of the cell.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from jeep_core.atlas.relations import RELATIONS
from jeep_core.errors import InvalidFacts
from jeep_core.spec.facts import SLOT, composed, normalise, parse_facts
from jeep_core.suites.cases import Case, Question, Style
from jeep_core.suites.fields import (
    MAX_TEXT,
    Malformed,
    Notes,
    Record,
    Unusable,
    case_id,
    filled,
    has_half_characters,
    template,
    texts,
)

NAME = "plain"
TRUE_FIELD = "target_true"
LISTS = (
    "paraphrase_prompts", "neighborhood_prompts", "neighborhood_answers", "generation_prompts",
)  # fmt: skip
TEXTS = ("subject", "relation", "object", "prompt", "target_new", "target_true", "join")
FIELDS = (*TEXTS, *LISTS, "case_id", "id")
"""Fields with a meaning, for suggestions where one is misspelt."""
TEMPLATES = {relation.name: relation.phrasings[0] for relation in RELATIONS}
NESTED: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(LISTS, ("[",)),
    **dict.fromkeys(("requested_rewrite", "locality", "portability", "answers"), ("[", "{")),
}
"""Columns of CSV that hold JSON where the cell begins with one of these brackets."""
UNUSABLE = {"no_subject": "no_subject", "same_as_target": "same_target"}


def matches(record: Record) -> bool:
    """Whether a record looks like one of this format."""
    return "subject" in record and ("prompt" in record or "relation" in record)


def style(records: Sequence[Record]) -> Style:
    """New against true answer, if the first record has a true one."""
    return Style.CONTRAST if records[0].get("target_true") else Style.ACCURACY


def cases(record: Record, number: int, notes: Notes) -> tuple[Case, ...]:
    """The case of one record.

    Raises:
        Malformed: a field is missing or of the wrong form.
        Unusable: the prompt lacks the subject, or the new answer is the true one.
    """
    given = {**record, **{name: record[name] for name in TEXTS if name in record}}
    for name, value in given.items():
        if isinstance(value, str) and len(value) > MAX_TEXT:
            raise Malformed(name, "too_long", f"{name} has {len(value)} characters")
    subject = normalise(given["subject"]) if isinstance(given.get("subject"), str) else ""
    lists = {
        name: tuple(filled(text, subject, notes) for text in texts(record, name)) for name in LISTS
    }
    neighbors, answers = lists["neighborhood_prompts"], lists["neighborhood_answers"]
    if answers and len(answers) != len(neighbors):
        message = f"{len(answers)} answers for {len(neighbors)} neighborhood prompts"
        raise Malformed("neighborhood_answers", "other_length", message)
    given.update(_as_template(given, subject, notes))
    try:
        [fact] = parse_facts([{**given, **lists}], TEMPLATES)
    except InvalidFacts as error:
        first = error.problems[0]
        field = first.pointer.rpartition("/")[2]
        kind = Unusable if first.code in UNUSABLE else Malformed
        raise kind(field, UNUSABLE.get(first.code, first.code), first.message) from None
    if neighbors and not answers and fact.target_true is None:
        for i, prompt in enumerate(neighbors):
            where = f"neighborhood_prompts/{i}"
            message = f"no answer is given to {prompt!r}: target_true is missing"
            notes.leave_out(where, "neighbor_without_answer", message)
    kept = () if answers or fact.target_true is None else fact.neighborhood_prompts
    case = Case(
        **{**vars(fact), "neighborhood_prompts": kept},
        id=case_id(record, number),
        unrelated=tuple(map(Question, neighbors, answers)) if answers else (),
        generation_prompts=lists["generation_prompts"],
    )
    return (case,)


def _as_template(given: Record, subject: str, notes: Notes) -> dict[str, str]:
    """Prompt and subject as in every other format, where the prompt has the subject at all.

    Problems of the fields are reported where facts are checked.
    """
    prompt = given.get("prompt")
    if not subject or SLOT in subject or not isinstance(prompt, str) or SLOT in prompt:
        return {}
    try:
        found, spelled = template(composed(prompt), subject, "prompt", notes)
    except Unusable:
        return {}
    return {"prompt": found, "subject": spelled}


def from_cells(row: dict[str, Any]) -> Record:
    """A CSV row as a record: empty cells are left out, lists are taken apart.

    Raises:
        Malformed: a cell that begins like a JSON list is not one; more cells than columns.
    """
    if None in row:
        raise Malformed("", "too_many_cells", "the row has more cells than the header")
    record: dict[str, Any] = {}
    for name, cell in row.items():
        if cell is None or not cell.strip():
            continue
        if cell.lstrip().startswith(NESTED.get(name, ())):
            record[name] = _json(name, cell)
        elif name in LISTS:
            record[name] = [line for line in cell.splitlines() if line.strip()]
        else:
            record[name] = cell
    return record


def _json(name: str, cell: str) -> Any:
    try:
        found = json.loads(cell)
    except (ValueError, RecursionError):
        message = f"{name} begins like a JSON list or object and is none"
        raise Malformed(name, "not_json", message) from None
    if has_half_characters(cell, found):
        raise Malformed(name, "not_json", f"{name} has half of a surrogate pair")
    return found
