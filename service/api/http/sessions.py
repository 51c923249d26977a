"""Sessions of browsers that have signed in to the console: a cookie, and a token for changes.

A session lives in the memory of the api process that made it.  The cookie opens only the console's
own paths, and every change needs the session's token in a header, which no page of another site
can read or send.
"""

from __future__ import annotations

import hmac
import math
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from fastapi import Request, Response

from service.api.http.limits import busy
from service.api.http.problems import ApiProblem
from service.contracts.schemas.access import LOCAL, ApiKey, Caller
from service.queue.buckets import TokenBuckets
from service.settings import Settings
from service.store import Store

CONSOLE = "/console"
TOKEN_HEADER = "X-CSRF-Token"
SIGN_INS_PER_MINUTE = 10
"""Tries of one address."""
PER_KEY = 50
"""Sessions of one key; one more ends its oldest."""
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_BYTES = 32


@dataclass(frozen=True)
class Session:
    """One browser: the key that it signed in with, its token for changes, when it ends (s)."""

    key_id: str
    token: str
    ends: float


def in_console(path: str) -> bool:
    """Whether a path belongs to the console."""
    return path == CONSOLE or path.startswith(f"{CONSOLE}/")


class Sessions:
    """The sessions of this process.  Nothing of them is written down."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        tries: TokenBuckets,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._tries, self._clock = store, tries, clock
        self._seconds = settings.console_hours * 3600
        self._without_keys = settings.auth == "off"
        self._local_token = secrets.token_urlsafe(_BYTES)
        self._by_id: dict[str, Session] = {}
        self._cookie = f"jeep_{store.id}"  # a browser sends cookies to every port of a host

    async def count_try(self, request: Request) -> None:
        """Count a try to sign in by its address.

        Raises:
            ApiProblem: 429 with the seconds until the next one is taken.
        """
        address = request.client.host if request.client else "unknown"
        wait = await self._tries.wait_for(f"sign-in:{address}")
        if wait > 0:
            detail = f"{SIGN_INS_PER_MINUTE} tries to sign in a minute are allowed: wait a little"
            raise busy("too_many_requests", detail, math.ceil(wait))

    def begin(self, key: ApiKey, request: Request, response: Response) -> None:
        """Give a browser a session of a key that has been verified, with its cookie."""
        self.end(request)
        self._drop_ended()
        own = [name for name, one in self._by_id.items() if one.key_id == key.id]
        for name in own[: max(0, len(own) - PER_KEY + 1)]:
            del self._by_id[name]
        name, token = secrets.token_urlsafe(_BYTES), secrets.token_urlsafe(_BYTES)
        self._by_id[name] = Session(key.id, token, self._clock() + self._seconds)
        lives = math.ceil(self._seconds)
        response.set_cookie(self._cookie, name, max_age=lives, **_attributes(request))

    def end(self, request: Request, response: Response | None = None) -> None:
        """End the request's session, if it has one, and take its cookie away."""
        self._by_id.pop(request.cookies.get(self._cookie, ""), None)
        if response is not None:
            response.delete_cookie(self._cookie, **_attributes(request))

    def caller(self, request: Request) -> Caller | None:
        """Who a request's session belongs to; None without one that is still good.

        A key that was revoked, or whose scopes were changed, counts from the next request on.

        Raises:
            ApiProblem: 403 for a change without the session's token.
        """
        session, key = self._of(request), self.key(request)
        if session is None or key is None:
            return None
        self._check_change(request, session.token)
        return caller_with(key)

    def key(self, request: Request) -> ApiKey | None:
        """The key that a request's session was begun with; None without one that is still good."""
        session = self._of(request)
        return None if session is None else self._store.keys.in_use(session.key_id)

    def check_local(self, request: Request) -> Caller:
        """The caller of a request where there are no keys: changes need the process's token.

        Raises:
            ApiProblem: 403 for a change without it.
        """
        self._check_change(request, self._local_token)
        return LOCAL

    def token_for(self, request: Request) -> str:
        """The token that the pages of a request's session send with changes; empty without one."""
        if self._without_keys:
            return self._local_token
        session = self._of(request)
        return "" if session is None else session.token

    def _of(self, request: Request) -> Session | None:
        name = request.cookies.get(self._cookie, "")
        session = self._by_id.get(name)
        if session is not None and session.ends <= self._clock():
            del self._by_id[name]
            return None
        return session

    def _drop_ended(self) -> None:
        now = self._clock()
        self._by_id = {name: one for name, one in self._by_id.items() if one.ends > now}

    def _check_change(self, request: Request, token: str) -> None:
        if request.method in SAFE:
            return
        check_origin(request)
        given = request.headers.get(TOKEN_HEADER, "")
        if not hmac.compare_digest(given.encode(), token.encode()):
            detail = f"a change needs the {TOKEN_HEADER} of its page: load the page again"
            raise ApiProblem("foreign_request", detail)


def caller_with(key: ApiKey) -> Caller:
    """Who calls with a key that has been verified."""
    return Caller(id=key.id, name=key.name, scopes=frozenset(key.scopes))


def check_origin(request: Request) -> None:
    """Refuse a change that a browser says a page of another origin has caused.

    Raises:
        ApiProblem: 403.
    """
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    foreign = site not in (None, "same-origin", "none")
    if site is None and origin is not None:
        foreign = _place(origin) != request.headers.get("host", "").lower()
    if foreign:
        detail = "the console's forms are sent from its own pages: open the console by its address"
        raise ApiProblem("foreign_request", detail)


def _place(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _attributes(request: Request) -> dict[str, Any]:
    """Of the cookie: no script reads it, no other site's page sends it, no plain line carries it
    where the console is behind TLS.
    """
    secure = request.url.scheme == "https"
    return {"path": CONSOLE, "httponly": True, "samesite": "strict", "secure": secure}
