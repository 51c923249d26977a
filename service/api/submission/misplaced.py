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

_PLACE = re.compile(r"/([^/]+)|/(?:facts|lines)/[0-9]+/([^/]+)")
"""A field of the body, or one of a fact."""
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
    if found is None or error["code"] != "extra_forbidden":
        return error
    beside, in_fact = found.groups()
    name = beside or in_fact
    if name not in hparam_names():
        return error
    sent = body if isinstance(body, dict) else {}
    value = json.dumps(sent[name]) if beside and name in sent else "…"
    if name == "exact" and value == "…":
        value = "true"
    hparams = f'"hparams": {{"{name}": {value if len(value) <= _SHOWN else "…"}}}'
    if sent.get("hparams") == AUTO:
        hparams = f'"preset": "{AUTO}", {hparams}'
    where = "" if beside else ", for all facts together, beside them"
    message = f"is a hyper-parameter{where}: send it as {hparams}"
    return field_error(error["pointer"], "misplaced", message)
