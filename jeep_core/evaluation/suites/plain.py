"""Plain facts, as ``POST /edits`` takes them: JSON lines, a JSON list, or CSV with a header.

Beside the fields of a fact, ``join`` among them: ``case_id``, ``generation_prompts``, and
``neighborhood_answers`` where the neighbors have other right answers than ``target_true``.  In CSV
a list is a JSON list or one text per line of the cell.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from jeep_core.atlas.relations import RELATIONS
from jeep_core.errors import InvalidFacts
from jeep_core.evaluation.suites.cases import Case, Question, Style
from jeep_core.evaluation.suites.fields import (
    MAX_TEXT,
    Malformed,
    Record,
    Unusable,
    case_id,
    has_half_characters,
    texts,
)
from jeep_core.facts import parse_facts

NAME = "plain"
LISTS = (
    "paraphrase_prompts", "neighborhood_prompts", "neighborhood_answers", "generation_prompts",
)  # fmt: skip
TEMPLATES = {relation.name: relation.phrasings[0] for relation in RELATIONS}
UNUSABLE = {"no_subject": "no_subject", "same_as_target": "same_target"}


def matches(record: Record) -> bool:
    """Whether a record looks like one of this format."""
    return "subject" in record and ("prompt" in record or "relation" in record)


def style_of(record: Record) -> Style:
    """A suite is judged by contrast if its first record has a true answer."""
    return Style.CONTRAST if record.get("target_true") else Style.ACCURACY


def case(record: Record, number: int, left_out: Counter[str]) -> Case:
    """One record.

    Raises:
        Malformed; Unusable: the prompt lacks the subject, or the new answer is the true one.
    """
    lists = {name: texts(record, name) for name in LISTS}
    for name, value in record.items():
        if isinstance(value, str) and len(value) > MAX_TEXT:
            raise Malformed(name, "too_long", f"{name} has {len(value)} characters")
    neighbors, answers = lists["neighborhood_prompts"], lists["neighborhood_answers"]
    if answers and len(answers) != len(neighbors):
        message = f"{len(answers)} answers for {len(neighbors)} neighborhood prompts"
        raise Malformed("neighborhood_answers", "other_length", message)
    try:
        [fact] = parse_facts([{**record, **lists}], TEMPLATES)
    except InvalidFacts as error:
        first = error.problems[0]
        field = first.pointer.rpartition("/")[2]
        kind = Unusable if first.code in UNUSABLE else Malformed
        raise kind(field, UNUSABLE.get(first.code, first.code), first.message) from None
    if neighbors and not answers and fact.target_true is None:
        left_out["neighbor_without_answer"] += len(neighbors)
    return Case(
        fact.subject,
        fact.prompt,
        fact.target_new,
        fact.target_true,
        fact.paraphrase_prompts,
        () if answers or fact.target_true is None else neighbors,
        id=case_id(record, number),
        unrelated=tuple(map(Question, neighbors, answers)) if answers else (),
        generation_prompts=lists["generation_prompts"],
        join=fact.join,
    )


def from_cells(row: dict[str, Any]) -> Record:
    """A CSV row as a record: empty cells are left out, lists are taken apart.

    Raises:
        Malformed: a cell that begins like a JSON list is none; more cells than columns.
    """
    if None in row:
        raise Malformed("", "too_many_cells", "the row has more cells than the header")
    record: dict[str, Any] = {}
    for name, cell in row.items():
        if cell is None or not cell.strip():
            continue
        record[name] = _list(name, cell) if name in LISTS else cell
    return record


def _list(name: str, cell: str) -> list[Any]:
    if not cell.lstrip().startswith("["):
        return [line for line in cell.splitlines() if line.strip()]
    try:
        found = json.loads(cell)
    except (ValueError, RecursionError):
        raise Malformed(name, "not_json", f"{name} begins like a JSON list and is none") from None
    if has_half_characters(cell, found):
        raise Malformed(name, "not_json", f"{name} has half of a surrogate pair")
    return found if isinstance(found, list) else [found]
