"""Errors of the HTTP api: every one is an RFC 9457 ``application/problem+json``."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from jeep_core.errors import FieldProblem
from service.schemas import Problem
from service.store import (
    BadName,
    CorruptFile,
    CorruptTensor,
    DiskFull,
    NameTaken,
    StoreError,
    StoreFull,
    UnknownJob,
    UnknownVersion,
    is_disk_full,
)

PROBLEM = "jeep.problem"
"""Where the ASGI scope of a request keeps the code of the problem that ended it."""
MEDIA_TYPE = "application/problem+json"
RETRY_AFTER = 2
"""Seconds after which a 503 is worth another try."""
FULL = {"Retry-After": "60"}
"""Retention and the end of other jobs may make room; a minute is soon enough to ask again."""

STORE_PROBLEMS: dict[type[StoreError], tuple[int, str]] = {
    UnknownVersion: (404, "unknown_version"),
    UnknownJob: (404, "unknown_job"),
    NameTaken: (409, "name_taken"),
    BadName: (422, "bad_name"),
    DiskFull: (507, "disk_full"),
    StoreFull: (507, "store_full"),
    CorruptTensor: (500, "corrupt_tensor"),
    CorruptFile: (500, "corrupt_file"),
}
"""Status and code for errors of the store that no route answers for itself."""

log = logging.getLogger(__name__)


class ApiProblem(Exception):
    """An error with its status, its stable code, a sentence and pointers into the request."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        errors: Iterable[Mapping[str, str]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail = status, code, detail
        self.errors = [dict(error) for error in errors]
        self.headers = dict(headers or {})


def field_error(pointer: str, code: str, message: str) -> dict[str, str]:
    """What is wrong with one field of the body."""
    return {"pointer": pointer, "code": code, "message": message}


def parameter_error(parameter: str, code: str, message: str) -> dict[str, str]:
    """What is wrong with one query parameter, path segment or header."""
    return {"parameter": parameter, "code": code, "message": message}


def from_fields(problems: Iterable[FieldProblem]) -> list[dict[str, str]]:
    """The library's field problems as ``errors`` of an answer."""
    return [field_error(p.pointer, p.code, p.message) for p in problems]


OVER_LIMIT = "over_limit"
"""Code of a field that is right but more than a setting allows."""


def invalid(errors: Iterable[Mapping[str, str]], code: str = "invalid_request") -> ApiProblem:
    """A 422 that says how many fields are wrong and what is wrong with the first.

    A 413 if all that is wrong is that limits of this service are exceeded.
    """
    listed = list(errors)
    first = listed[0]
    more = f" (and {len(listed) - 1} more)" if len(listed) > 1 else ""
    where = first.get("pointer") or first.get("parameter", "")
    said = f"{where}: {first['message']}" if where else first["message"]
    if all(error["code"] == OVER_LIMIT for error in listed):
        return ApiProblem(413, OVER_LIMIT, f"{said}{more}", listed)
    return ApiProblem(422, code, f"{said}{more}", listed)


def not_found(what: str, name: str) -> ApiProblem:
    """A 404 for a named thing: ``what`` is ``job``, ``edit`` or ``version``."""
    return ApiProblem(404, f"unknown_{what}", f"there is no {what} {name!r}")


def unavailable(code: str, detail: str, retry_after: int = RETRY_AFTER) -> ApiProblem:
    """A 503 that says when to try again."""
    return ApiProblem(503, code, detail, headers={"Retry-After": str(retry_after)})


def validation_errors(
    items: Iterable[Mapping[str, Any]], pointer: str = ""
) -> list[dict[str, str]]:
    """Errors of pydantic as pointers below ``pointer``."""
    return [
        field_error(
            "/".join([pointer, *(_escape(part) for part in item["loc"])]),
            str(item["type"]),
            str(item["msg"]),
        )
        for item in items
    ]


def problem_of(request: Request, problem: ApiProblem) -> Problem:
    """The body of the answer to a request that failed."""
    return Problem(
        title=HTTPStatus(problem.status).phrase,
        status=problem.status,
        detail=problem.detail,
        code=problem.code,
        errors=problem.errors,
        request_id=request.scope.get("request_id", ""),
    )


def problem_response(request: Request, problem: ApiProblem) -> Response:
    """The answer to a request that failed."""
    body = problem_of(request, problem)
    request.scope[PROBLEM] = problem.code
    headers = {**problem.headers, "X-Request-Id": body.request_id}
    content = body.model_dump(mode="json")
    return JSONResponse(content, problem.status, headers=headers, media_type=MEDIA_TYPE)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """``responses`` of a route for OpenAPI: the problems it can answer with, and 500."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": schema}},
        }
        for status in sorted({*statuses, 500})
    }


def event_stream(*names: str) -> dict[str, Any]:
    """``content`` of an answer for OpenAPI: server-sent events of these names, JSON in each."""
    properties = {
        "id": {"type": "string"},
        "event": {"type": "string", "enum": [*names]},
        "data": {"type": "string", "contentMediaType": "application/json"},
    }
    return {"text/event-stream": {"itemSchema": {"type": "object", "properties": properties}}}


def install(app: FastAPI) -> None:
    """Make ``app`` answer every error it knows with a problem; the others are `unexpected`."""
    app.add_exception_handler(ApiProblem, _on_problem)
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(StoreError, _on_store)


def _escape(part: object) -> str:
    return str(part).replace("~", "~0").replace("/", "~1")


async def _on_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiProblem)
    return problem_response(request, error)


async def _on_validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    errors = [
        parameter_error(".".join(map(str, item["loc"][1:])), str(item["type"]), str(item["msg"]))
        for item in error.errors()
    ]
    return problem_response(request, invalid(errors))


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    phrase = HTTPStatus(error.status_code).phrase
    code = phrase.lower().replace(" ", "_").replace("-", "_")
    detail = f"{request.method} {request.url.path}: {phrase.lower()}"
    problem = ApiProblem(error.status_code, code, detail, headers=error.headers)
    return problem_response(request, problem)


async def _on_store(request: Request, error: Exception) -> Response:
    status, code = next(
        (v for cls, v in STORE_PROBLEMS.items() if isinstance(error, cls)), (500, "store_error")
    )
    if status == 500:
        log.error("request %s: %s", request.scope.get("request_id"), error)
    headers = FULL if status == 507 else None
    return problem_response(request, ApiProblem(status, code, str(error), headers=headers))


def unexpected(request: Request, error: Exception) -> Response:
    """The answer to a request that failed in a way nobody has foreseen."""
    if is_disk_full(error):
        problem = ApiProblem(507, "disk_full", "the store's disk is full", headers=FULL)
    else:
        log.error("request %s failed", request.scope.get("request_id"), exc_info=error)
        problem = ApiProblem(500, "internal_error", "an unexpected error; see the api's log")
    return problem_response(request, problem)
