"""Middleware around every request: an id, headers, a limit on its body, unforeseen errors."""

from __future__ import annotations

import re
from collections.abc import Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.http.early_refusals import refuse
from service.api.http.problems import SHAPE, ApiProblem, Shape, failed
from service.contracts.jobs import new_id
from service.ops import logs

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


class RequestIds:
    """Takes the client's ``X-Request-Id`` or makes one; it is on every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if REQUEST_ID.fullmatch(given) else new_id("req")
        scope["request_id"] = request_id

        async def with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
            await send(message)

        with logs.bound(request_id=request_id):
            await self.app(scope, receive, with_id)


FOR_BROWSERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "frame-ancestors 'none'",
}
"""On every answer: no browser guesses its type or shows it in another site's frame."""


class BrowserHeaders:
    """Puts `FOR_BROWSERS` on every answer, refusals too; what a page says of itself stays."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in FOR_BROWSERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, with_headers)


class Shapes:
    """Shows errors of requests below some paths as the interface served there does."""

    def __init__(self, app: ASGIApp, shapes: Mapping[str, Shape]) -> None:
        self.app = app
        self._shapes = shapes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] == "http":
            for path, shape in self._shapes.items():
                if scope["path"] == path or scope["path"].startswith(f"{path}/"):
                    scope[SHAPE] = shape
        await self.app(scope, receive, send)


class Unexpected:
    """Answers unforeseen errors with a problem.

    Starlette's own handler raises the error again after it has answered, upon which the
    server closes a connection that the client believes to be usable.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        begun = False

        async def noticing(message: Message) -> None:
            nonlocal begun
            begun = begun or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, noticing)
        except Exception as error:
            if scope["type"] != "http" or begun:  # cut off, so that no client takes it for complete
                raise
            await failed(Request(scope), error)(scope, receive, send)


class BodyLimit:
    """Reads the body ahead of the application and refuses it beyond ``max_bytes`` with 413.

    A declared length is refused unread, a chunked body at the first byte too many.  Routes at
    ``streamed`` paths, which have limits of their own, read their bodies piece by piece and
    count chunked ones themselves.
    """

    def __init__(
        self, app: ASGIApp, max_bytes: int, streamed: Mapping[str, int] | None = None
    ) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.streamed = streamed or {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self.app(scope, receive, send)
            return
        limit = self.streamed.get(scope["path"], self.max_bytes)
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdecimal() and int(declared) > limit:
            await refuse(too_large(limit), scope, receive, send)
            return
        if scope["path"] in self.streamed:
            await self.app(scope, receive, send)
            return
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            if len(body) > self.max_bytes:
                await refuse(too_large(limit), scope, receive, send)
                return
            if not message.get("more_body", False):
                break
        await self.app(scope, _replay(bytes(body), receive), send)


def too_large(limit: int) -> ApiProblem:
    """A 413 for a body of more than ``limit`` bytes."""
    detail = (
        f"the body is larger than {limit} bytes (JEEP_MAX_BODY_BYTES, for suites "
        "JEEP_MAX_SUITE_BYTES)"
    )
    return ApiProblem("body_too_large", detail, headers={"Connection": "close"})


def _replay(body: bytes, receive: Receive) -> Receive:
    """A ``receive`` that gives ``body`` once and then any later messages (the disconnect)."""
    sent = False

    async def replay() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
