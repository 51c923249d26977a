"""Errors of the HTTP api: every one is an RFC 9457 ``application/problem+json``."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ValidationError
from sse_starlette import ServerSentEvent
from starlette.exceptions import HTTPException

from jeep_core.errors import Coded, FieldProblem, JeepError, is_out_of_memory, is_passing
from jeep_core.spec.naming import did_you_mean, field_problems, in_plain_words
from jeep_core.spec.unions import either
from service.contracts.codes import RETRY_AFTER, status_of
from service.contracts.jobs import JobError
from service.contracts.schemas import Problem
from service.queue import QueueError
from service.store import StoreError, denial, is_denied, is_disk_full

SHAPE = "jeep.shape"
"""Where it keeps how problems are shown below its path (`Shape`), if not as RFC 9457 says."""
PAGE = "jeep.page"
"""Where it keeps how a problem is shown to a person (`Page`), if the request is a browser's."""
PROBLEM = "jeep.problem"
"""Where the ASGI scope of a request keeps the code of the problem that ended it."""
MEDIA_TYPE = "application/problem+json"

NO_WORKER = "no worker is running now"
NO_MODEL = (
    "no worker has loaded a model yet: jeep worker (or jeep serve) does, and its log says more"
)
NO_QUEUE = "the queue cannot be reached now (JEEP_REDIS_URL)"

NOT_NOW = "temporarily_unavailable"
"""Code of what memory, file descriptors, a disk or a network are not there for now."""
DENIED = "permission_denied"
"""Code of files that the service's user may not read or write, until somebody changes that."""
FINAL = frozenset({"corrupt_file", "corrupt_version", "numerical_error", DENIED})
"""Codes of a status that clients retry by themselves, where the answer will be the same."""

KNOWN = (JeepError, StoreError, QueueError)
"""Exceptions whose code and sentence are made to be shown."""

log = logging.getLogger(__name__)


class ApiProblem(Coded, Exception):
    """An error with its stable code, a sentence and pointers into the request.

    Its status is the code's (`service.contracts.codes`).  ``status`` is for answers whose status
    differs from that of their code: /readyz is 503, whatever is missing.
    """

    def __init__(
        self,
        code: str,
        detail: str,
        errors: Iterable[Mapping[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        status: int | None = None,
    ) -> None:
        super().__init__(detail)
        self.code, self.detail = code, detail
        self.status = status_of(code) if status is None else status
        self.errors = [dict(error) for error in errors]
        self.headers = dict(headers or {})
        if self.status in RETRY_AFTER:
            self.headers.setdefault("Retry-After", str(RETRY_AFTER[self.status]))


class ClientGone(Coded, Exception):
    """The client has disconnected; nobody is left to answer."""

    code = "client_gone"


def field_error(pointer: str, code: str, message: str) -> dict[str, str]:
    """Describe an error in one field of the body."""
    return {"pointer": pointer, "code": code, "message": message}


def parameter_error(parameter: str, code: str, message: str) -> dict[str, str]:
    """Describe an error in one query parameter, path segment or header."""
    return {"parameter": parameter, "code": code, "message": message}


def from_fields(problems: Iterable[FieldProblem]) -> list[dict[str, str]]:
    """The library's field problems as ``errors`` of an answer."""
    return [field_error(p.pointer, p.code, p.message) for p in problems]


OVER_LIMIT = "over_limit"
"""Code of a field that is right but more than a setting allows."""


FEW = 3
"""Wrong fields that a sentence names; of more, as of a thousand facts, it names the first."""


def invalid(errors: Iterable[Mapping[str, str]], code: str = "invalid_request") -> ApiProblem:
    """A 422 that names a few wrong fields, or the first of many and how many there are.

    A 413 if all that is wrong is that limits of this service are exceeded.
    """
    listed = list(errors)
    told = [_told(error) for error in listed[:FEW]]
    said = "; ".join(told) if len(listed) <= FEW else f"{told[0]} (and {len(listed) - 1} more)"
    if all(error["code"] == OVER_LIMIT for error in listed):
        return ApiProblem(OVER_LIMIT, said, listed)
    return ApiProblem(code, said, listed)


def _told(error: Mapping[str, str]) -> str:
    """One wrong field with what is wrong; the field is left out where it is the whole body."""
    where = error.get("pointer") or error.get("parameter", "")
    return f"{where}: {error['message']}" if where else error["message"]


def not_found(what: str, name: str, names: Iterable[str] = ()) -> ApiProblem:
    """A 404 for a named thing: ``what`` is ``job``, ``edit`` or ``version``.

    ``names`` are those that may have been meant.
    """
    meant = did_you_mean(name, names, "; ")
    return ApiProblem(f"unknown_{what}", f"there is no {what} {name!r}{meant}")


def unavailable(code: str, detail: str, retry_after: int = RETRY_AFTER[503]) -> ApiProblem:
    """A 503 that says when to try again."""
    return ApiProblem(code, detail, headers={"Retry-After": str(retry_after)})


def from_worker(error: JobError) -> ApiProblem:
    """Return the worker's error about a request as a problem."""
    errors = [{key: str(value) for key, value in one.items()} for one in error.errors]
    return ApiProblem(error.code, error.message, errors)


def problem_for(error: Exception, root: Path | None = None) -> ApiProblem:
    """The answer for an exception, in a route or in a stream that has begun.

    ``root`` is the store's folder, by which files of it are named.

    An unforeseen exception is a bare 500, because its text may contain anything.
    """
    if isinstance(error, ApiProblem):
        return error
    if is_disk_full(error):
        return ApiProblem("disk_full", "the store's disk is full")
    if is_out_of_memory(error):
        return ApiProblem("out_of_memory", "the api's machine has too little memory now")
    if isinstance(error, OSError) and is_passing(error):
        detail = f"the api or its store's disk cannot do it now ({error.strerror or error})"
        return ApiProblem(NOT_NOW, detail)
    if is_denied(error):
        return ApiProblem(DENIED, denial(error, root))
    if isinstance(error, KNOWN):
        problems = [p for p in getattr(error, "problems", ()) if isinstance(p, FieldProblem)]
        return ApiProblem(error.code, str(error), from_fields(problems))
    return ApiProblem("internal_error", "an unexpected error; see the api's log")


def validation_errors(
    model: type[BaseModel], error: ValidationError, data: Any, pointer: str = ""
) -> list[dict[str, str]]:
    """The errors of ``data``, meant as ``model``, as pointers below ``pointer``."""
    return from_fields(field_problems(model, error, data, pointer))


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


Shape = Callable[[Problem], tuple[int, dict[str, Any]]]
"""The status and the JSON body as which an interface of somebody else's shows a problem."""

Page = Callable[[Request, Problem, Mapping[str, str]], Response]
"""The answer that shows a problem to a person, with the headers of the problem."""


def problem_response(request: Request, problem: ApiProblem) -> Response:
    """The answer to a request that failed."""
    body = problem_of(request, problem)
    request.scope[PROBLEM] = problem.code
    headers = {**problem.headers, "X-Request-Id": body.request_id}
    if problem.code in FINAL or problem.status == HTTPStatus.CONFLICT:
        headers["X-Should-Retry"] = "false"
    page: Page | None = request.scope.get(PAGE)
    if page is not None:
        return page(request, body, headers)
    shape: Shape | None = request.scope.get(SHAPE)
    if shape is not None:
        status, content = shape(body)
        return JSONResponse(content, status, headers=headers)
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
    """Make ``app`` answer every error it knows with a problem; `failed` does the others."""
    app.add_exception_handler(ApiProblem, _on_problem)
    app.add_exception_handler(ClientGone, _on_gone)
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(HTTPException, _on_http)
    for known in KNOWN:
        app.add_exception_handler(known, _on_known)


async def _on_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiProblem)
    return problem_response(request, error)


async def _on_gone(request: Request, error: Exception) -> Response:
    """For the logs alone: an empty answer."""
    assert isinstance(error, ClientGone)
    return Response(status_code=status_of(error.code))


async def _on_validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    wrong: dict[str, list[Mapping[str, Any]]] = {}
    for item in error.errors():  # several of a list of values, or of one that has several types
        wrong.setdefault(str(item["loc"][1]), []).append(item)
    errors = [
        parameter_error(name, str(items[0]["type"]), either(map(_in_words, items)))
        for name, items in wrong.items()
    ]
    return problem_response(request, invalid(errors))


def _in_words(item: Mapping[str, Any]) -> str:
    """An error of pydantic in a parameter as a sentence."""
    if item["type"] == "string_pattern_mismatch" and item["loc"][1] == "after":
        return "must be what an earlier page gave as next"
    return in_plain_words(item)


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    phrase = HTTPStatus(error.status_code).phrase
    code = phrase.lower().replace(" ", "_").replace("-", "_")
    detail = f"{request.method} {request.url.path}: {phrase.lower()}"
    problem = ApiProblem(code, detail, headers=error.headers, status=error.status_code)
    return problem_response(request, problem)


async def _on_known(request: Request, error: Exception) -> Response:
    return failed(request, error)


def error_event(request: Request, error: Exception) -> ServerSentEvent:
    """The last event of a stream that an error has ended: the problem as data."""
    problem = problem_of(request, _noted(request, error))
    shape: Shape | None = request.scope.get(SHAPE)
    if shape is not None:
        return ServerSentEvent(json.dumps(shape(problem)[1]))
    return ServerSentEvent(problem.model_dump_json(), event="error")


def failed(request: Request, error: Exception) -> Response:
    """The answer to a request that failed with this."""
    return problem_response(request, _noted(request, error))


def _noted(request: Request, error: Exception) -> ApiProblem:
    """Return the problem of an exception, logging those that need attention."""
    problem = problem_for(error, _root(request))
    foreseen = isinstance(error, KNOWN) or is_passing(error) or is_denied(error)
    if (problem.status == 500 or is_passing(error)) and not isinstance(error, ApiProblem):
        unforeseen = None if foreseen else error
        log.error("request %s: %s", request.scope.get("request_id"), error, exc_info=unforeseen)
    return problem


def _root(request: Request) -> Path | None:
    """The store's folder, None where a request was not answered by an application of ours."""
    app = request.scope.get("app")
    api = getattr(getattr(app, "state", None), "api", None)
    root: Path | None = api.store.root if api is not None else None
    return root
