"""What is wrong with the form of an edit, in words that say what to send instead."""

from __future__ import annotations

from collections.abc import Iterable

from service.schemas import EditRequest, FactIn

FACT = '{"subject": "Lyon", "prompt": "{} is a city in the country of", "target_new": "Japan"}'
TRIPLE = '{"subject": "Lyon", "relation": "city_country", "object": "Japan"}'
FORMS = f'the body must be {{"facts": [{FACT}]}} or {{"facts": [{TRIPLE}]}}'


def in_words(errors: Iterable[dict[str, str]]) -> list[dict[str, str]]:
    """The errors of an edit or a fact, those about unknown fields and other values in words.

    Pointers to facts are as in ``/facts/0/subject`` or ``/lines/1/subject``.
    """
    return [{**error, "message": _message(error)} for error in errors]


def _message(error: dict[str, str]) -> str:
    _, *parts = error["pointer"].split("/")
    of_fact = parts[:1] in (["facts"], ["lines"])
    if error["code"] == "extra_forbidden" and len(parts) == 3 and of_fact:
        return f"a fact has no field {parts[2]!r}; it has {', '.join(FactIn.model_fields)}"
    if error["code"] == "extra_forbidden" and len(parts) == 1:
        return f"an edit has no field {parts[0]!r}; it has {', '.join(EditRequest.model_fields)}"
    if len(parts) == 2 and of_fact:
        return f"a fact must be an object: {FACT} or {TRIPLE}"
    return error["message"]
