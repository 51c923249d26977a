"""Reading the fields of one record, with errors that name the field."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from jeep_core.facts import SLOT, find_subject, normalise

Record = Mapping[str, Any]
MAX_TEXT = 20_000
"""Characters of one text: more is a mistake in the file."""


class Malformed(Exception):
    """A record that does not have the format: the whole file is in doubt."""

    def __init__(self, field: str, code: str, message: str) -> None:
        super().__init__(message)
        self.field, self.code, self.message = field, code, message


class Unusable(Malformed):
    """A record of the right format that cannot be edited: it is dropped and counted."""


def text(record: Record, name: str, where: str = "") -> str:
    """A text that must be there.

    Raises:
        Malformed: ``missing``, ``not_text``, ``empty`` or ``too_long``.
    """
    if name not in record:
        raise Malformed(where + name, "missing", f"{where}{name} is missing")
    return as_text(record[name], where + name)


def as_text(value: Any, where: str) -> str:
    """A value that must be text, in Unicode NFC without surrounding white space."""
    if not isinstance(value, str):
        raise Malformed(where, "not_text", f"{where} must be a text")
    if len(value) > MAX_TEXT:
        raise Malformed(where, "too_long", f"{where} has {len(value)} characters")
    found = normalise(value)
    if not found:
        raise Malformed(where, "empty", f"{where} is empty")
    return found


def texts(record: Record, name: str, where: str = "") -> tuple[str, ...]:
    """A list of texts; none if the field is missing or null.  A single text is a list of one."""
    value = record.get(name)
    if value is None:
        return ()
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list | tuple):
        raise Malformed(where + name, "not_texts", f"{where}{name} must be a list of texts")
    return tuple(as_text(item, f"{where}{name}/{i}") for i, item in enumerate(value))


def part(record: Record, name: str, where: str = "") -> Record:
    """An object inside a record."""
    if name not in record:
        raise Malformed(where + name, "missing", f"{where}{name} is missing")
    if not isinstance(record[name], Mapping):
        raise Malformed(where + name, "not_an_object", f"{where}{name} must be an object")
    found: Record = record[name]
    return found


def template(prompt: str, subject: str, field: str) -> str:
    """The prompt with ``{}`` for the last occurrence of the subject.

    Raises:
        Unusable: ``no_subject``: it does not occur; ``many_slots``: the text has braces already.
    """
    if SLOT in prompt:
        raise Unusable(field, "many_slots", f"{field} contains '{{}}' beside the subject")
    found = find_subject(prompt, subject)
    if found is None:
        message = f"{field} does not contain the subject {subject!r} as a word of its own"
        raise Unusable(field, "no_subject", message)
    return prompt[: found[0]] + SLOT + prompt[found[1] :]


def has_half_characters(text: str, value: Any) -> bool:
    """Whether a value read from JSON has one half of a surrogate pair alone: that is no Unicode."""
    if "\\ud" not in text.lower():
        return False
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def case_id(record: Record, number: int) -> str:
    """``case_id`` or ``id`` of a record, else its number."""
    for name in ("case_id", "id"):
        value = record.get(name)
        if isinstance(value, str | int) and not isinstance(value, bool) and str(value).strip():
            return str(value)[:200]
    return str(number)
