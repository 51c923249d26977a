"""Around every request of the console: headers that browsers obey, errors as pages, `/`."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote, urlsplit

from fastapi import Request, Response
from fastapi.responses import RedirectResponse
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.console.rendering import fragment, page
from service.api.http.problems import PAGE
from service.api.http.sessions import CONSOLE, in_console
from service.contracts.schemas import Problem

SIGN_IN = f"{CONSOLE}/sign-in"
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data:",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Console:
    """Sends browsers that ask for `/` to the console; every other request for it goes on."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        reads_pages = "text/html" in request.headers.get("accept", "")
        if scope["path"] == "/" and scope["method"] in ("GET", "HEAD") and reads_pages:
            await RedirectResponse(CONSOLE, 303, HEADERS)(scope, receive, send)
            return
        if not in_console(scope["path"]):
            await self.app(scope, receive, send)
            return
        if reads_pages or _of_htmx(request):
            scope[PAGE] = _shown

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        await self.app(scope, receive, with_headers)


def _of_htmx(request: Request) -> bool:
    return request.headers.get("hx-request") == "true"


def _shown(request: Request, problem: Problem, headers: Mapping[str, str]) -> Response:
    """A problem as a page, as a part of one, or, for who has not signed in, as the way there."""
    parts = _of_htmx(request)
    if problem.status == 401:
        shown = request.headers.get("hx-current-url", "") if parts else str(request.url)
        address = SIGN_IN + _back_to(shown)
        if not parts:
            return RedirectResponse(address, 303, dict(headers))
        return Response(status_code=401, headers={**headers, "HX-Redirect": address})
    show = fragment if parts else page
    template = "parts/problem.html" if parts else "problem.html"
    return show(request, template, problem.status, headers, problem=problem)


def _back_to(url: str) -> str:
    """The query that brings a reader back to a page of the console after signing in."""
    parts = urlsplit(url)
    if not in_console(parts.path):
        return ""
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    return f"?next={quote(target, safe='')}"
