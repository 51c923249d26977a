"""Messages about wrong names and fields: similar names, known names, and what is expected."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from jeep_core.errors import FieldProblem
from jeep_core.spec.unions import per_field

PREFIXES = ("Value error, ", "Assertion failed, ")
WORDS = {
    "missing": "is missing",
    **dict.fromkeys(("list_type", "tuple_type"), "must be a list"),
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), "must be an object"),
    "string_type": "must be a text",
    **dict.fromkeys(("bool_type", "bool_parsing"), "must be true or false"),
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "must be a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "must be a number"),
    "finite_number": "must be a finite number",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "too_short": "has {actual_length} entries, at least {min_length} are needed",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    **dict.fromkeys(("literal_error", "enum"), "must be {expected}"),
}
"""Messages by type of pydantic's errors; each ``{}`` is filled from the error's context."""


NO_FORM = "does not have the form that is meant here"


def near_names(name: str, names: Iterable[str]) -> list[str]:
    """At most three of ``names`` that may have been meant, the nearest first; case is nothing."""
    plain = {one.casefold(): one for one in names}
    return [plain[one] for one in get_close_matches(name.casefold(), plain)]


def did_you_mean(name: str, names: Iterable[str], before: str = "") -> str:
    """``did you mean 'x' or 'y'?`` after the text ``before``; nothing where no name is near."""
    close = near_names(name, names)
    return f"{before}did you mean {' or '.join(map(repr, close))}?" if close else ""


def known_names(name: str, names: Iterable[str]) -> str:
    """``did you mean 'x'? there are: x, y``; no question where nothing is near."""
    listed = list(names)
    question = did_you_mean(name, near_names(name, listed)[:1])
    return f"{question}{' ' if question else ''}there are: {', '.join(listed) or 'none'}"


def in_plain_words(item: Mapping[str, Any]) -> str:
    """An error of pydantic as a sentence for readers who do not know Python."""
    found = WORDS.get(item["type"])
    if found is not None:
        for name, value in item.get("ctx", {}).items():
            found = found.replace(f"{{{name}}}", str(_short(value)))
        return found
    if item["type"] == "string_pattern_mismatch":
        return _form_in_words(item["ctx"]["pattern"]) or NO_FORM
    message = str(item["msg"])
    for prefix in PREFIXES:
        message = message.removeprefix(prefix)
    return message


def _short(value: Any) -> Any:
    """A limit without a needless decimal point."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


_NAMES = re.compile(r"\^\[([^\[\]]+)\]\[([^\[\]]+)\]\{0,(\d+)\}\$")
_CLASSES = {"A-Z": "", "a-z": "letters", "0-9": "digits"}


def _form_in_words(pattern: str) -> str | None:
    """The sentence for a pattern of names: ``[first character][others]{0,N}``; else None."""
    found = _NAMES.fullmatch(pattern)
    if found is None:
        return None
    first, others, more = found.groups()
    begins = " or ".join(_characters(first)).replace("letters", "a letter")
    begins = begins.replace("digits", "a digit")
    names = _characters(others)
    listed = " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
    return f"must be {listed}, beginning with {begins}, at most {int(more) + 1} characters"


def _characters(inside: str) -> list[str]:
    """The contents of a class of characters in words; single ones together at the end."""
    names = [name for part, name in _CLASSES.items() if part in inside and name]
    for part in _CLASSES:
        inside = inside.replace(part, "")
    return names + ([" ".join(inside)] if inside else [])


def field_message(model: type[BaseModel], item: Any) -> str:
    """The message for an error of pydantic in ``model``; for an unknown field, the known ones.

    For a text of another form than its field's it is what the field says of itself.
    """
    if item["type"] == "extra_forbidden":
        parts = [part for part in item["loc"] if isinstance(part, str)]
        return f"there is no such field here; {known_names(parts[-1], _fields(model, parts[:-1]))}"
    if item["type"] == "string_pattern_mismatch":
        meant = _description(model, [part for part in item["loc"] if isinstance(part, str)])
        if meant:
            form = _form_in_words(item["ctx"]["pattern"])
            more = f"; it {form}" if form else ""
            return f"must have the form that is meant here: {meant.removesuffix('.')}{more}"
    return in_plain_words(item)


def field_problems(
    model: type[BaseModel], error: ValidationError, data: Any, pointer: str = ""
) -> list[FieldProblem]:
    """Every problem of ``data``, meant as ``model``, with a JSON pointer below ``pointer``."""

    def escaped(part: int | str) -> str:
        return str(part).replace("~", "~0").replace("/", "~1")

    return [
        FieldProblem(
            "/".join([pointer, *map(escaped, item["loc"])]),
            item["type"],
            field_message(model, item),
        )
        for item in per_field(error.errors(include_url=False), data, in_plain_words)
    ]


def one_line(error: Exception) -> str:
    """The message of an error in a file, in one line."""
    if isinstance(error, ValidationError):
        return "; ".join(
            f"{'.'.join(map(str, item['loc'])) or 'it'}: {in_plain_words(item)}"
            for item in per_field(error.errors(include_url=False), None, in_plain_words)
        )
    return " ".join(str(error).split())


def _fields(model: type[BaseModel], path: Sequence[str]) -> list[str]:
    """The field names of the model at ``path``; none if it cannot be determined."""
    found = _model_at(model, path)
    return list(found.model_fields) if found is not None else []


def _description(model: type[BaseModel], path: Sequence[str]) -> str | None:
    """The description of the field at ``path``, if it has one and can be found."""
    owner = _model_at(model, path[:-1]) if path else None
    field = owner.model_fields.get(path[-1]) if owner is not None else None
    return field.description if field is not None else None


def _model_at(model: type[BaseModel], path: Sequence[str]) -> type[BaseModel] | None:
    found: type[BaseModel] | None = model
    for part in path:
        field = found.model_fields.get(part) if found is not None else None
        found = None if field is None else _model_in(field.annotation)
    return found


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model in an annotation such as ``list[Fact]`` or ``Guards | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner = (_model_in(part) for part in get_args(annotation))
    return next((model for model in inner if model is not None), None)
