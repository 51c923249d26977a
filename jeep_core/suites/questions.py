"""Answers with their aliases, and questions in the forms that data sets give them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jeep_core.suites.cases import Question
from jeep_core.suites.fields import Malformed, Notes, Record, as_text, filled
from jeep_core.text.counting import counted

PLACEHOLDER = "<|endoftext|>"
"""EasyEdit's placeholder for an unknown old answer."""


def answers(value: Any, where: str) -> tuple[str, ...]:
    """All texts of a text, a list or a list of lists, each once; blank ones and null are none.

    Raises:
        Malformed: something else is among them.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return ()
    if not isinstance(value, list | tuple):
        return (as_text(value, where),)
    found = (text for i, item in enumerate(value) for text in answers(item, f"{where}/{i}"))
    return tuple(dict.fromkeys(found))


def old_answers(value: Any, new: tuple[str, ...], where: str, notes: Notes) -> tuple[str, ...]:
    """The true answers before the edit: those that are neither a placeholder nor among the new."""
    found = []
    for text in answers(value, where):
        if text == PLACEHOLDER:
            notes.leave_out(where, "placeholder", f"{where} is {PLACEHOLDER}, which is no answer")
        elif text in new:
            notes.leave_out(where, "same_target", f"{where} is the new answer {text!r}")
        else:
            found.append(text)
    return tuple(found)


def asked(
    prompt: Any, truth: Any, subject: str, where: str, notes: Notes, group: str | None = None
) -> list[Question]:
    """Questions: one prompt with its right answers, or a list of prompts with one answer each.

    A list of answers to one prompt holds aliases; to several prompts it holds one entry for each
    (which may be a list of aliases), or one entry for all.  ``group``: of the questions, if it is
    not the field ``where``.

    Raises:
        Malformed: ``other_length``: as many answers as prompts are needed; or a value is not text.
    """
    prompts = list(prompt) if isinstance(prompt, list | tuple) else [prompt]
    truths = [truth] * len(prompts)
    if len(prompts) > 1 and isinstance(truth, list | tuple) and len(truth) > 1:
        if len(truth) != len(prompts):
            message = f"{where} has {counted(len(truth), 'answer')} for {len(prompts)} prompts"
            raise Malformed(where, "other_length", message)
        truths = list(truth)
    found = []
    for one, right in zip(prompts, truths, strict=True):
        first, *aliases = answers(right, where) or ("",)
        texts = answers(one, where)
        if not texts:
            notes.leave_out(where, "question_without_prompt", f"{where} has no prompt")
        for text in texts:
            if first:
                said = filled(text, subject, notes)
                found.append(Question(said, first, tuple(aliases), group or where))
            else:
                message = f"no answer is given to {text!r}"
                notes.leave_out(where, "question_without_answer", message)
    return found


def groups(record: Record, name: str, subject: str, notes: Notes) -> list[Question]:
    """Questions by kind: an object of lists of ``{prompt, ground_truth}``.

    In place of a list there may be one object, whose values may be lists of the same length.

    Raises:
        Malformed: the field is not such an object, or a part of it is not a text.
    """
    found: list[Question] = []
    given = record.get(name)
    if given is None:
        return found
    if not isinstance(given, Mapping):
        raise Malformed(name, "not_an_object", f"{name} must be an object")
    for group, items in given.items():
        where = f"{name}/{group}"
        if isinstance(items, Mapping):
            items = [items]
        if items is not None and not isinstance(items, list):
            raise Malformed(where, "not_a_list", f"{where} must be a list of questions")
        for i, item in enumerate(items or []):
            here = f"{where}/{i}"
            if not isinstance(item, Mapping):
                raise Malformed(here, "not_an_object", f"{here} must be an object")
            truth = item.get("ground_truth")
            found += asked(item.get("prompt"), truth, subject, here, notes, str(group))
    return found


def flat(record: Record, kind: str, subject: str, notes: Notes) -> list[Question]:
    """Questions in two fields, ``<kind>_prompt`` and ``<kind>_ground_truth``."""
    name = f"{kind}_prompt"
    if not record.get(name):
        return []
    return asked(record[name], record.get(f"{kind}_ground_truth"), subject, name, notes)
