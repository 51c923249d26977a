"""Errors of fields that may have one of several types, as errors of the fields.

Pydantic tries every type of a union and reports each failure, below a part of the error's place
that is the name of the type: a number as ``version: str | list[str]`` gives ``version.str`` and
``version.list[str]``.  The names are Python's and no place in the input, and one mistake looks
like several.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

Item = Mapping[str, Any]
"""An error of pydantic."""
Place = tuple[int | str, ...]

ALTERNATIVE = "union_type"
"""Type of the error of a value that has none of the types a field may have."""

_NAME = re.compile(
    r"(str|int|float|bool|bytes|none|dict|list|tuple|set)|constrained-\w+|.*[\[\]].*|[A-Z]\w*"
)
"""Names of types as pydantic writes them; no field of ours has such a name."""
KINDS = ("_type", "_parsing", "literal_error", "enum")
"""Ends of the types of errors about a value that is of another kind than its field."""
_MUST = "must be "


def per_field(
    items: Iterable[Item], data: Any, in_words: Callable[[Item], str]
) -> list[dict[str, Any]]:
    """The errors of ``data`` with their places in it, one for a field of a union.

    Of the types that a value may have, the one counts that it comes nearest to: a list with a wrong
    entry was meant to be a list.  Where it has none of them, the message names all; ``in_words``
    gives the message about one.
    """
    return _chosen([(dict(item), *_steps(item, data)) for item in items], in_words)


def either(messages: Iterable[str]) -> str:
    """Messages about the same value, each of which says what it must be, as one."""
    different = list(dict.fromkeys(messages))
    if all(message.startswith(_MUST) for message in different):
        return _MUST + " or ".join(message.removeprefix(_MUST) for message in different)
    return "; or ".join(different)


_Step = tuple[Place, str]
"""A union's place and the name of the type that was tried there."""
_Found = tuple[dict[str, Any], Place, Sequence[_Step]]


def _steps(item: Item, data: Any) -> tuple[Place, list[_Step]]:
    """The place of an error without the names of types, and the unions on the way to it."""
    place: Place = ()
    steps: list[_Step] = []
    loc = item["loc"]
    for i, part in enumerate(loc):
        there = isinstance(data, Mapping) and part in data
        if there and i + 1 == len(loc) and item.get("input") is data:
            there = False  # about the object itself, which happens to have a field of that name
        if isinstance(part, str) and not there and _NAME.fullmatch(part):
            steps.append((place, part))
            continue
        place = (*place, part)
        if there or (isinstance(part, int) and isinstance(data, Sequence) and part < len(data)):
            data = data[part]
        else:
            data = None
    return place, steps


def _chosen(found: Sequence[_Found], in_words: Callable[[Item], str]) -> list[dict[str, Any]]:
    unions: dict[Place | int, list[_Found]] = {}
    for i, one in enumerate(found):
        unions.setdefault(one[2][0][0] if one[2] else i, []).append(one)
    chosen = []
    for at, errors in unions.items():
        if isinstance(at, int):
            [(item, place, _)] = errors
            chosen.append({**item, "loc": place})
            continue
        types: dict[str, list[_Found]] = {}
        for item, place, steps in errors:
            types.setdefault(steps[0][1], []).append((item, place, steps[1:]))
        near = [some for some in types.values() if not _is_another_kind(some, at)]
        if near:
            chosen += _chosen(min(near, key=len), in_words)
        elif len(types) == 1:
            chosen += _chosen([one for some in types.values() for one in some], in_words)
        else:
            words = [in_words(item) for some in types.values() for item, _, _ in some]
            chosen.append({"loc": at, "type": ALTERNATIVE, "msg": either(words)})
    return chosen


def _is_another_kind(errors: Sequence[_Found], at: Place) -> bool:
    """Whether a value was not even of the kind of one of its types, such as a text or a list."""
    return all(place == at and item["type"].endswith(KINDS) for item, place, _ in errors)
