"""Fields that stand in another place than their own: the errors say where they belong."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, TypeVar

from pydantic import BaseModel

from jeep_core.editors import hparam_names
from service.api.http.bodies import validate
from service.api.http.problems import ApiProblem, field_error, invalid
from service.contracts.schemas import AUTO

M = TypeVar("M", bound=BaseModel)

IN_THE_QUERY = ("dry_run", "drop_bad", "format", "limit")
"""Parameters of ``POST /edits`` that no body has."""

_PLACE = re.compile(r"/([^/]+)|/(facts|lines)/[0-9]+/([^/]+)")
"""A field of the body, or one of a fact."""
_UNKNOWN = ("extra_forbidden", "unknown_field")
"""Codes of the errors about fields that there are not."""
_SHOWN = 40
"""Characters of a value that a message repeats."""


def told_where(errors: Iterable[dict[str, str]], body: Any) -> list[dict[str, str]]:
    """Errors of a body with ``hparams``; one about a hyper-parameter elsewhere says where it goes.

    ``body``: what was sent, or what was said besides the facts.
    """
    return [_told(error, body) for error in errors]


def validated(model: type[M], data: Any) -> M:
    """``data`` as a ``model`` with ``hparams``.

    Raises:
        ApiProblem: 422 with a pointer per wrong field.
    """
    try:
        return validate(model, data)
    except ApiProblem as problem:
        raise invalid(told_where(problem.errors, data), problem.code) from None


def in_the_query(name: str) -> dict[str, str]:
    """The error of a body that has one of `IN_THE_QUERY` as a field."""
    message = f"is a query parameter: send it as ?{name}=…, not in the body"
    return field_error(f"/{name}", "misplaced", message)


def _told(error: dict[str, str], body: Any) -> dict[str, str]:
    found = _PLACE.fullmatch(error["pointer"])
    if found is None or error["code"] not in _UNKNOWN:
        return error
    beside, facts, in_fact = found.groups()
    name = beside or in_fact
    if name not in hparam_names():
        return error
    sent = body if isinstance(body, dict) else {}
    value = json.dumps(sent[name]) if beside and name in sent else "…"
    if name == "exact" and value == "…":
        value = "true"
    hparams = f'{{"{name}": {value if len(value) <= _SHOWN else "…"}}}'
    automatic = sent.get("hparams") == AUTO
    if facts == "lines":
        where = "for all lines together, in the query: send it as "
        where += f"?preset={AUTO}&hparams={hparams}" if automatic else f"?hparams={hparams}"
    else:
        where = "for all facts together, beside them: send it as " if facts else "send it as "
        where += f'"preset": "{AUTO}", ' if automatic else ""
        where += f'"hparams": {hparams}'
    message = f"is a hyper-parameter{', ' if facts else ': '}{where}"
    return field_error(error["pointer"], "misplaced", message)
