"""The arguments of an EasyEdit call, fields with one entry per fact, as records of that format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jeep_core.suites.fields import Malformed, Record
from jeep_core.text.counting import counted

NAMES = {
    "prompts": "prompt",
    "subjects": "subject",
    "targets_new": "target_new",
    "rephrase_prompts": "rephrase_prompt",
    "locality_inputs": "locality",
    "portability_inputs": "portability",
}
"""Names of a call's fields, in the plural, with those of a record's fields."""
NEEDED = ("prompt", "subject", "target_new")
OTHERS = (
    *NAMES.values(),
    "ground_truth",
    "locality_prompt",
    "locality_ground_truth",
    "portability_prompt",
    "portability_ground_truth",
    "case_id",
    "id",
)
GROUPS = ("locality", "portability")


def is_columns(value: Record) -> bool:
    """Whether an object holds several facts, field by field."""
    return "prompts" in value or (
        isinstance(value.get("prompt"), list) and isinstance(value.get("subject"), list)
    )


def rows(value: Record) -> list[Record]:
    """One record per prompt.

    Raises:
        Malformed: ``missing`` prompts, subjects or answers; ``unknown_field``; ``other_length``:
            a field does not have one entry per prompt.
    """
    for name in value:
        if name not in NAMES and name not in OTHERS:
            message = f"{name} is a field neither of an edit nor of EasyEdit's facts: leave it out"
            raise Malformed(name, "unknown_field", message)
    given = {
        NAMES.get(name, name): (name, entry) for name, entry in value.items() if entry is not None
    }
    for name in NEEDED:
        if name not in given:
            message = f"{name} is missing: give one for every prompt"
            raise Malformed(name, "missing", message)
    prompts = given["prompt"][1]
    single = not isinstance(prompts, list)
    count = 1 if single else len(prompts)
    found: list[dict[str, Any]] = [{} for _ in range(count)]
    for name, (said, entry) in given.items():
        if name in GROUPS:
            columns = _groups(entry, said, count)
        else:
            columns = [entry] if single else _column(entry, said, count)
        for record, one in zip(found, columns, strict=True):
            record[name] = one
    return [*found]


def place(value: Record, record: int, field: str) -> str:
    """JSON pointer to what became a field of a record."""
    name = field.partition("/")[0]
    said = next((said for said in value if NAMES.get(said, said) == name), name)
    return f"/{said}/{record}" if isinstance(value.get(said), list) else f"/{said}"


def _column(entry: Any, where: str, count: int) -> list[Any]:
    if count == 1 and not (isinstance(entry, list) and len(entry) == 1):
        return [entry]  # all questions about the one fact
    if not isinstance(entry, list) or len(entry) != count:
        has = counted(len(entry), "entry", "entries") if isinstance(entry, list) else "no entries"
        message = f"{where} has {has} for {counted(count, 'prompt')}: give one for every prompt"
        raise Malformed(where, "other_length", message)
    return entry


def _groups(entry: Any, where: str, count: int) -> list[dict[str, Any]]:
    """``{group: {prompt: […], ground_truth: […]}}`` with one entry per fact, fact by fact."""
    if not isinstance(entry, Mapping):
        raise Malformed(where, "not_an_object", f"{where} must be an object")
    found: list[dict[str, Any]] = [{} for _ in range(count)]
    for group, questions in entry.items():
        here = f"{where}/{group}"
        if not isinstance(questions, Mapping) or "prompt" not in questions:
            message = f"{here} must be an object with prompt and ground_truth"
            raise Malformed(here, "not_an_object", message)
        prompts = _column(questions["prompt"], f"{here}/prompt", count)
        truths = questions.get("ground_truth") or [None] * count
        truths = _column(truths, f"{here}/ground_truth", count)
        for record, prompt, truth in zip(found, prompts, truths, strict=True):
            if prompt is not None:
                record[group] = [{"prompt": prompt, "ground_truth": truth}]
    return found
