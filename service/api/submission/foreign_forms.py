"""Error messages about the form of an edit that show a valid form."""

from __future__ import annotations

from collections.abc import Iterable

FACT = '{"subject": "Lyon", "prompt": "{} is a city in the country of", "target_new": "Japan"}'
TRIPLE = '{"subject": "Lyon", "relation": "city_country", "object": "Japan"}'
FORMS = f'the body must be {{"facts": [{FACT}]}} or {{"facts": [{TRIPLE}]}}'


def in_words(errors: Iterable[dict[str, str]]) -> list[dict[str, str]]:
    """Reword the errors of an edit or of facts by line; a value that is no fact gets an example."""
    return [{**error, "message": _message(error)} for error in errors]


def _message(error: dict[str, str]) -> str:
    _, *parts = error["pointer"].split("/")
    if len(parts) == 2 and parts[0] in ("facts", "lines"):
        return f"a fact must be an object: {FACT} or {TRIPLE}"
    if parts == ["facts"] and error["code"] in ("list_type", "too_short"):
        return FORMS
    return error["message"]
