"""Refusing a request before its body was read."""

from __future__ import annotations

import time

import anyio
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from service.api.http.problems import ApiProblem, problem_response

DRAIN_SECONDS = 2.0


async def refuse(problem: ApiProblem, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer, then give the client a moment to finish its body so that it reads the answer."""
    response = problem_response(Request(scope), problem)
    if not _has_body(scope):
        await response(scope, receive, send)
        return
    response.headers["Connection"] = "close"
    headers = response.raw_headers
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": response.body, "more_body": True})
    end = time.monotonic() + DRAIN_SECONDS
    while time.monotonic() < end:
        with anyio.move_on_after(end - time.monotonic()):
            message = await receive()
            if message["type"] == "http.disconnect" or not message.get("more_body", False):
                break
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _has_body(scope: Scope) -> bool:
    headers = Headers(scope=scope)
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"
