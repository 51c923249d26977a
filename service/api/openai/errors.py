"""Errors in OpenAI's shape: the status that its clients know, and an ``error`` object."""

from __future__ import annotations

from typing import Any

from service.api.http.problems import OVER_LIMIT
from service.contracts.schemas import Problem
from service.contracts.schemas.openai import ErrorBody, OpenAIError

CODES = {
    "unknown_version": "model_not_found",
    "too_long": "context_length_exceeded",
    "too_many_requests": "rate_limit_exceeded",
}
"""Codes by which clients of that interface act; all others are the service's own."""

KNOWN = '; "head" is the version that is served now, GET /v1/models lists all'
"""Added where a client of that interface names a model of another service."""
TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


def openai_error(problem: Problem) -> tuple[int, dict[str, Any]]:
    """Status and body of a problem: whatever is wrong with the request itself is a 400."""
    wrong = problem.status in (409, 422) or problem.code in (OVER_LIMIT, "unsupported_media_type")
    status = 400 if wrong else problem.status
    usual = "server_error" if status >= 500 else "invalid_request_error"
    first = problem.errors[0] if problem.errors else {}
    unknown = problem.code == "unknown_version"
    body = ErrorBody(
        message=problem.detail + (KNOWN if unknown else ""),
        type=TYPES.get(status, usual),
        param=_parameter(first) or ("model" if unknown else None),
        code=CODES.get(problem.code, problem.code),
        errors=problem.errors,
        request_id=problem.request_id,
    )
    return status, OpenAIError(error=body).model_dump(mode="json")


def _parameter(error: dict[str, str]) -> str | None:
    """The field an error is about: ``/messages/0/content`` is ``messages[0].content``."""
    if "parameter" in error:
        return error["parameter"]
    name = ""
    for part in error.get("pointer", "").split("/")[1:]:
        name += f"[{part}]" if part.isdecimal() else f".{part}" if name else part
    return name or None
