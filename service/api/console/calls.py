"""The service's own HTTP interface, asked in this process in the name of a page's reader.

So scopes, checks, limits and the audit log are those of the interface: a page can show or change
nothing that its reader's key could not.
"""

from __future__ import annotations

import json
from typing import Any, TypeVar
from urllib.parse import quote, unquote, urlencode

import httpx
from fastapi import Request
from pydantic import BaseModel
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as Connection

from service.api.http.access import CALLER, caller_of
from service.api.http.auditing import ASKED_BY
from service.api.http.problems import PAGE, ApiProblem
from service.contracts.schemas import Problem

M = TypeVar("M", bound=BaseModel)

KEPT_HEADERS = ("Retry-After", "WWW-Authenticate")
"""Of a refusal; the page's own answer has them, too."""
OF_PARTS = frozenset({b"range", b"if-range", b"if-none-match", b"last-event-id"})
"""Headers that ask for a part of a file or of events; they are passed on with what is forwarded."""


def at(path: str, *parts: str) -> str:
    """A path with ``{}`` for every part that comes from outside, which stays one part of it."""
    quoted = [quote(part, safe="", errors="replace").replace(".", "%2E") for part in parts]
    first, *others = path.split("{}")
    return first + "".join(map("".join, zip(quoted, others, strict=True)))


class Calls:
    """Calls of the interface for one request of a page."""

    def __init__(self, request: Request) -> None:
        self._request = request

    async def get(self, path: str, answer: type[M], **query: Any) -> M:
        """The answer of a path, as ``answer``; a query parameter of None is left out.

        Raises:
            ApiProblem: as the interface answers.
        """
        given = {name: value for name, value in query.items() if value is not None}
        found = await self._send("GET", path, params=given)
        return answer.model_validate_json(found.content)

    async def lines(self, path: str) -> list[dict[str, Any]]:
        """The answer of a path that has an object per line.

        Raises:
            ApiProblem: as the interface answers.
        """
        found = await self._send("GET", path)
        return [json.loads(line) for line in found.content.split(b"\n") if line]

    async def post(
        self,
        path: str,
        answer: type[M],
        body: dict[str, Any] | BaseModel | None = None,
        headers: dict[str, str] | None = None,
        **query: Any,
    ) -> M:
        """The answer to a change or a question with a JSON body.

        Raises:
            ApiProblem: as the interface answers.
        """
        content = body.model_dump(mode="json") if isinstance(body, BaseModel) else body or {}
        found = await self._send("POST", path, json=content, params=query, headers=headers)
        return answer.model_validate_json(found.content)

    def stream(self, path: str, body: dict[str, Any]) -> Response:
        """The answer of the interface to this POST, passed on as it comes."""
        return _Forwarded(self._request, "POST", path, json.dumps(body).encode())

    def file(self, path: str, **query: str) -> Response:
        """The file, or the events, that the interface answers a GET of this path with, whole or in
        parts.
        """
        return _Forwarded(self._request, "GET", path, query=urlencode(query).encode())

    async def upload(self, path: str, answer: type[M], content: bytes, **query: Any) -> M:
        """The answer to a file; a query parameter of None is left out.

        Raises:
            ApiProblem: as the interface answers.
        """
        given = {name: value for name, value in query.items() if value is not None}
        kind = {"Content-Type": "application/octet-stream"}
        found = await self._send("POST", path, content=content, params=given, headers=kind)
        return answer.model_validate_json(found.content)

    async def _send(self, method: str, path: str, **what: Any) -> httpx.Response:
        inside = httpx.ASGITransport(app=_named(self._request), raise_app_exceptions=False)
        headers = {"X-Request-Id": self._request.scope.get("request_id", "")}
        headers |= what.pop("headers", None) or {}
        async with httpx.AsyncClient(
            transport=inside, base_url="http://localhost", headers=headers, trust_env=False
        ) as client:
            answer = await client.request(method, path, **what)
        if answer.is_error:
            raise _refusal(answer)
        return answer


def _named(request: Request) -> ASGIApp:
    """The app for requests in the name of the reader whose request this is."""
    app: ASGIApp = request.app

    async def asked(scope: Connection, receive: Receive, send: Send) -> None:
        named = {CALLER: caller_of(request), ASKED_BY: request.scope}
        await app({**scope, **named}, receive, send)

    return asked


def _refusal(answer: httpx.Response) -> ApiProblem:
    problem = Problem.model_validate_json(answer.content)
    headers = {name: answer.headers[name] for name in KEPT_HEADERS if name in answer.headers}
    return ApiProblem(problem.code, problem.detail, problem.errors, headers, problem.status)


class _Forwarded(Response):
    """Asks the app when it is sent, and passes on what comes, until the browser has gone."""

    def __init__(
        self, request: Request, method: str, path: str, body: bytes = b"", query: bytes = b""
    ) -> None:
        super().__init__()
        self._request, self._method, self._path, self._asked = request, method, path, body
        self._query = query

    async def __call__(self, scope: Connection, receive: Receive, send: Send) -> None:
        given = iter([{"type": "http.request", "body": self._asked, "more_body": False}])

        async def body_first() -> Message:
            return next(given, None) or await receive()

        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(self._asked)).encode()),
            (b"x-request-id", scope.get("request_id", "").encode()),
            *((name, value) for name, value in scope["headers"] if name in OF_PARTS),
        ]
        kept = ("type", "asgi", "http_version", "scheme", "server", "client", "root_path", PAGE)
        inner = {name: scope[name] for name in kept if name in scope}
        path = {"path": unquote(self._path), "raw_path": self._path.encode()}
        inner |= {"method": self._method, "headers": headers, "query_string": self._query, **path}
        await _named(self._request)(inner, body_first, send)
