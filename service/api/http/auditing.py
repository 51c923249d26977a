"""Writes every call that changes something, refused ones too, into the audit log."""

from __future__ import annotations

import logging
import time
from typing import Any

from fastapi.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.http.access import CALLER, ROUTE, Guarded
from service.api.http.problems import PROBLEM
from service.contracts.jobs import now
from service.contracts.schemas.access import AuditEntry, Caller
from service.contracts.schemas.access import Scope as Need
from service.store import Store, without_keys

VERSION = "jeep.version"
"""Where the ASGI scope of a request keeps the version that the call is about."""
JOB = "jeep.job"
"""Where it keeps the job that the call has queued, if its `Location` names something else."""
ASKED_BY = "jeep.asked_by"
"""Where it keeps the ASGI scope of the request of a page that made this one in its name."""
AUDITED = "jeep.audited"
"""Set in the scope of such a page's request once the line of a change that it made is written."""
NOTED = "jeep.noted"
"""Where the scope of a request for an open route that is audited all the same keeps who it was
from, None if that is not known."""
UNCHANGED = "jeep.unchanged"
"""Set in the scope of a request that only asks what a change would do."""
LONGEST_TARGET = 512
UNASKED_PER_MINUTE = 60
"""Lines for calls of nobody that is known and for those above a key's rate: strangers must not be
able to fill the disk.  What was left out is counted in the next line."""

log = logging.getLogger(__name__)


def concerns(request: Request, version: str) -> None:
    """Note for the audit log which version a call is about."""
    request.scope[VERSION] = version


def queued(request: Request, job_id: str) -> None:
    """Note for the audit log which job a call has queued."""
    request.scope[JOB] = job_id


def changes_nothing(request: Request) -> None:
    """Note for the audit log that a call only asks what a change would do: it gets no line."""
    request.scope[UNCHANGED] = True


def noted(request: Request, caller: Caller | None = None) -> None:
    """Have a call of an open route audited, in the name of ``caller`` if it is known."""
    request.scope[NOTED] = caller


class Audit:
    """Appends the line before the answer is sent: every answered call is in the log."""

    def __init__(self, app: ASGIApp, store: Store) -> None:
        self.app = app
        self._store = store
        self._minute, self._lines, self._suppressed = 0, 0, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def audited(message: Message) -> None:
            if message["type"] == "http.response.start" and _changes(scope):
                await self._write(scope, message)
                scope.get(ASKED_BY, {})[AUDITED] = True
            await send(message)

        await self.app(scope, receive, audited)

    async def _write(self, scope: Scope, answer: Message) -> None:
        unasked = answer["status"] in (401, 429) or _caller(scope) is None
        if unasked and not self._may_write():
            self._suppressed += 1
            return
        entry = _entry(scope, answer).model_copy(update={"suppressed": self._suppressed})
        self._suppressed = 0
        try:
            await run_in_threadpool(self._store.audit.append, entry)
        except OSError as error:  # the change has been made; the service's own log records it
            log.error("not in the audit log (%s): %s", error, entry.model_dump_json())

    def _may_write(self) -> bool:
        minute = int(time.monotonic() // 60)
        if minute != self._minute:
            self._minute, self._lines = minute, 0
        self._lines += 1
        return self._lines <= UNASKED_PER_MINUTE


def _changes(scope: Scope) -> bool:
    """Whether the call is for a route that changes something, granted or not."""
    if UNCHANGED in scope:
        return False
    if NOTED in scope:
        return True
    route: Guarded | None = scope.get(ROUTE)
    if route is None or scope["method"] in ("GET", "HEAD", "OPTIONS") or AUDITED in scope:
        return False
    named = not route.methods or scope["method"] in route.methods
    return named and route.need in (Need.EDIT, Need.ADMIN, None)


def _caller(scope: Scope) -> Caller | None:
    found: Caller | None = scope.get(CALLER) or scope.get(NOTED)
    return found


def _entry(scope: Scope, answer: Message) -> AuditEntry:
    headers = Headers(raw=answer.get("headers", []))
    caller = _caller(scope)
    route: Guarded = scope[ROUTE]
    request = Request(scope)
    target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    location = headers.get("location", "")
    named = location.removeprefix("/jobs/") if location.startswith("/jobs/") else None
    given: dict[str, Any] = {"who": caller.id, "name": caller.name} if caller else {}
    return AuditEntry(
        when=now(),
        action=route.name,
        target=without_keys(target[:LONGEST_TARGET]),
        status=answer["status"],
        code=scope.get(PROBLEM),
        request_id=scope.get("request_id", ""),
        job_id=scope.get(JOB) or named,
        version=scope.get(VERSION) or headers.get("x-model-version"),
        **{"who": "anonymous", **given},
    )
