"""Reading the fields of one record, with errors that name the field."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jeep_core.errors import Coded
from jeep_core.spec.facts import SLOT, composed, find_subject

Record = Mapping[str, Any]
MAX_TEXT = 20_000
"""Characters of one text: more is a mistake in the file."""
EMPTY: tuple[Any, ...] = (None, "", [], {})
"""Values that count as an empty field."""
_ALIKE = str.maketrans("‘’ʼ`“”„‐‑–—\u00a0\u202f", "''''\"\"\"----  ")
"""Marks that differ between sources of the same name, one character for one."""


class Malformed(Coded, Exception):
    """A record that does not have the format: the whole file is in doubt."""

    def __init__(self, field: str, code: str, message: str) -> None:
        super().__init__(message)
        self.field, self.code, self.message = field, code, message


class Unusable(Malformed):
    """A record of the right format that cannot be edited: it is dropped and counted."""


@dataclass
class Notes:
    """Notes on one record: lost parts, and texts that are read otherwise than written."""

    left_out: list[Malformed] = field(default_factory=list)
    adapted: Counter[str] = field(default_factory=Counter)

    def leave_out(self, field: str, code: str, message: str) -> None:
        """Note a part that the record's cases do without."""
        self.left_out.append(Malformed(field, code, message))


def text(record: Record, name: str, where: str = "") -> str:
    """A text that must be there.

    Raises:
        Malformed: ``missing``, ``not_text``, ``empty`` or ``too_long``.
    """
    if name not in record:
        raise Malformed(where + name, "missing", f"{where}{name} is missing")
    return as_text(record[name], where + name)


def as_text(value: Any, where: str) -> str:
    """A value that must be text, in Unicode NFC; white space around it is kept, as in a prompt."""
    if not isinstance(value, str):
        raise Malformed(where, "not_text", f"{where} must be a text")
    if len(value) > MAX_TEXT:
        raise Malformed(where, "too_long", f"{where} has {len(value)} characters")
    found = composed(value)
    if not found.strip():
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


def subject_of(record: Record, name: str = "subject", where: str = "") -> str:
    """The subject, without white space around it.

    Raises:
        Malformed: as ``text``; ``slots``: it contains ``{}``.
    """
    subject = text(record, name, where).strip()
    if SLOT in subject:
        raise Malformed(where + name, "slots", f"{where}{name} must not contain '{{}}'")
    return subject


def template(prompt: str, subject: str, field: str, notes: Notes) -> tuple[str, str]:
    """The prompt with one ``{}``, and the subject as the prompt spells it.

    A prompt with one ``{}`` is a template already.  In any other, ``{}`` takes the place of the
    subject's last occurrence as a word of its own; letter case and the kinds of quotation marks,
    hyphens and spaces may differ.

    Raises:
        Unusable: ``no_subject``: it does not occur; ``many_slots``: there are several ``{}``.
    """
    slots = prompt.count(SLOT)
    if slots == 1:
        return prompt, subject
    if slots:
        message = f"{field} has {slots} '{{}}', it needs one, or the subject"
        raise Unusable(field, "many_slots", message)
    span = find_subject(prompt, subject)
    if span is None:
        span = find_subject(_folded(prompt), _folded(subject))
        if span is None:
            message = (
                f"{field} has neither '{{}}' nor the subject {subject!r} as a word of its own in "
                "it: write {} in place of the subject"
            )
            raise Unusable(field, "no_subject", message)
        notes.adapted["subject_spelling"] += 1
    start, end = span
    return prompt[:start] + SLOT + prompt[end:], prompt[start:end]


def filled(text: str, subject: str, notes: Notes) -> str:
    """A prompt that tests an edit, with the subject for every ``{}``."""
    if SLOT not in text:
        return text
    notes.adapted["filled_prompt"] += 1
    return text.replace(SLOT, subject)


def prompts(
    record: Record, name: str, subject: str, notes: Notes, where: str = ""
) -> tuple[str, ...]:
    """A list of texts as ``texts`` reads it, filled in with the subject."""
    return tuple(filled(text, subject, notes) for text in texts(record, name, where))


def _folded(text: str) -> str:
    """The text without letter case and kinds of marks; every character stays in its place."""
    folded = [c.casefold() for c in text.translate(_ALIKE)]
    return "".join(f if len(f) == 1 else c for f, c in zip(folded, text, strict=True))


def has_half_characters(text: str, value: Any) -> bool:
    """Whether a value read from JSON has half of a surrogate pair, which is invalid Unicode."""
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
