"""Access control before every route: who is calling, and whether they may.

A route says what it needs in one place, under its method::

    @router.post("/edits", ...)
    @needs(Scope.EDIT)
    async def submit_edit(...): ...

`public` is written there for a route that needs nothing.  A route without either is refused, and so
is every path without a route.  All this happens before a byte of the body is read.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from re import Pattern
from typing import Any, TypeVar, get_args, get_origin
from urllib.parse import urlsplit

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import iter_route_contexts
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.routing import BaseRoute, compile_path
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as Connection

from jeep_core.editors import hparam_names
from jeep_core.spec.naming import known_names
from service.api.http.early_refusals import refuse
from service.api.http.limits import RateLimit
from service.api.http.problems import ApiProblem, invalid, parameter_error, unavailable
from service.api.http.sessions import CONSOLE, Sessions, caller_with, in_console
from service.contracts.schemas.access import LOCAL, Caller, Scope
from service.settings import Settings, is_loopback
from service.store import CorruptFile, Store, StoreReplaced
from service.store.files import Stamp, file_stamp
from service.store.store import check_identity

F = TypeVar("F", bound=Callable[..., Any])

_KIND = re.compile(r":\w+}")
MARK = "__needed_scope__"
CALLER = "jeep.caller"
"""Where the ASGI scope of a request keeps its `Caller`."""
ROUTE = "jeep.route"
"""Where it keeps its `Guarded` route."""
LENIENT = ("/v1", CONSOLE, "/metrics")
"""Below these, and of public routes, unknown query parameters are ignored: clients made for
OpenAI's interface, probes and scrapers add some of their own, and the console's forms send all
their fields to whatever part of a page they fill."""
NAMED, NAME_LENGTH = 10, 40
"""How many unknown parameters an answer names, and so many characters of each."""
STATE_PATH = "/store"
"""Of the route that is answered from the files as they are."""


class _Public(StrEnum):
    PUBLIC = "public"


PUBLIC = _Public.PUBLIC
Need = Scope | _Public


def needs(scope: Scope) -> Callable[[F], F]:
    """Declare the scope that a route's function, or a mounted app, needs."""

    def declare(endpoint: F) -> F:
        setattr(endpoint, MARK, scope)
        return endpoint

    return declare


def public(endpoint: F) -> F:
    """Declare that a route's function, or a mounted app, is open to everyone."""
    setattr(endpoint, MARK, PUBLIC)
    return endpoint


@dataclass(frozen=True)
class Guarded:
    """A route as the gate sees it.  ``need`` is None where nothing was declared.

    ``parameters``: the query parameters that it takes; None where unknown ones are ignored.
    ``lists``: those that may come more than once.
    """

    path: str
    name: str
    methods: frozenset[str]
    need: Need | None
    pattern: Pattern[str]
    parameters: tuple[str, ...] | None = None
    lists: frozenset[str] = frozenset()

    @property
    def described_as(self) -> str:
        """The path as OpenAPI writes it, without the kinds of its parameters."""
        return _KIND.sub("}", self.path)

    def matches(self, path: str) -> bool:
        """Whether this is a route for ``path``, by whatever method."""
        return self.pattern.match(path) is not None


def guarded_routes(routes: Iterable[BaseRoute], prefix: str = "") -> list[Guarded]:
    """All routes of an app with what they need, in the order in which they are tried.

    A mounted FastAPI app that declares nothing as a whole is a room of routes that do.
    """
    found = []
    for context in iter_route_contexts(list(routes)):
        mounted = getattr(context.original_route, "app", None)
        is_mount = context.endpoint is None
        path = prefix + (context.path or "")
        if is_mount and isinstance(mounted, FastAPI) and not hasattr(mounted, MARK):
            found += guarded_routes(mounted.routes, path)
            continue
        need = getattr(mounted if is_mount else context.endpoint, MARK, None)
        dependant = getattr(context.original_route, "dependant", None)
        pattern, _, _ = compile_path(path + "/{path:path}" if is_mount else path)
        taken = None if need is PUBLIC else _parameters(path, dependant)
        found.append(
            Guarded(
                path=path,
                name=context.name or path,
                methods=frozenset(context.methods or ()),
                need=need,
                pattern=pattern,
                parameters=None if taken is None else tuple(taken),
                lists=frozenset(name for name, many in (taken or {}).items() if many),
            )
        )
    return found


def _parameters(path: str, dependant: Dependant | None) -> dict[str, bool] | None:
    """The query parameters that a route's function and its dependencies declare.

    True: it is a list, whose values come one by one.
    """
    if dependant is None or any(path == at or path.startswith(f"{at}/") for at in LENIENT):
        return None
    found = {one.alias: _is_list(one.field_info.annotation) for one in dependant.query_params}
    for inner in dependant.dependencies:
        found |= _parameters(path, inner) or {}
    return found


def _is_list(annotation: Any) -> bool:
    return any(get_origin(one) is list for one in (annotation, *get_args(annotation)))


class Gate:
    """Lets a request through to its route if its key has the scope that the route needs.

    A request that a page of the console makes in the name of its reader brings its caller, and was
    counted with the page's own.
    """

    def __init__(
        self, app: ASGIApp, settings: Settings, store: Store, rate: RateLimit, sessions: Sessions
    ) -> None:
        self.app = app
        self._open = settings.auth == "off"
        self._store, self._rate, self._sessions = store, rate, sessions
        self._routes: list[Guarded] | None = None
        self._identity: Stamp = None

    async def __call__(self, scope: Connection, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008, "reason": "no such route"})
            return
        counted = CALLER in scope
        try:
            self._check_store(scope)
            self._admit(scope)
            if CALLER in scope and not counted:
                await self._rate.take(scope[CALLER])
            _check_parameters(scope)
        except ApiProblem as problem:
            await refuse(problem, scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _check_store(self, scope: Connection) -> None:
        """Answer for no store but the one that was opened: what is in memory is of that one.

        ``/store`` alone says which one is there now.

        Raises:
            ApiProblem: 503, the folder holds another one or none.
        """
        root = self._store.root
        stamp = file_stamp(root / "id.json")
        if stamp is not None and stamp == self._identity:
            return
        # a restore writes the format last: before that no key is known, and none is refused
        if stamp is None or file_stamp(root / "format.json") is None:
            detail = f"{root} holds no store now, or one that is being restored: ask again later"
            raise unavailable("store_replaced", detail)
        if scope["path"] == STATE_PATH:
            return
        try:
            check_identity(self._store)
        except StoreReplaced as error:
            raise unavailable("store_replaced", str(error)) from None
        except CorruptFile:  # which store it is, only the next start has to know
            return
        self._identity = stamp

    def _admit(self, scope: Connection) -> None:
        """Note caller and route in ``scope``.

        Raises:
            ApiProblem: 401 without a valid key, 403 without the scope, 404 for no route.
        """
        request = Request(scope)
        route = self._find(scope)
        scope[ROUTE] = route
        if route is not None and route.need is PUBLIC:
            return
        if CALLER not in scope:
            scope[CALLER] = self._caller(request)
        if route is None:
            raise ApiProblem("not_found", f"{request.method} {request.url.path}: not found")
        _authorize(scope[CALLER], route)

    def _find(self, scope: Connection) -> Guarded | None:
        if self._routes is None:  # not before all have been added
            self._routes = guarded_routes(scope["app"].routes)
        at_path = [route for route in self._routes if route.matches(scope["path"])]
        for route in at_path:
            if not route.methods or scope["method"] in route.methods:
                return route
        return at_path[0] if at_path else None  # whose other methods the router names: 405

    def _caller(self, request: Request) -> Caller:
        console = in_console(request.url.path)
        if self._open:
            refuse_foreign(request)
            return self._sessions.check_local(request) if console else LOCAL
        session = self._sessions.caller(request) if console else None
        return session or self._authenticate(request)

    def _authenticate(self, request: Request) -> Caller:
        token = _token(request)
        key = self._store.keys.find(token) if token else None
        if key is None:
            raise _unauthorized(request, given=bool(request.headers.get("authorization")))
        return caller_with(key)


def caller_of(request: Request) -> Caller:
    """Return the caller of a request that has passed the gate."""
    caller: Caller = request.scope[CALLER]
    return caller


def check_scope(request: Request, scope: Scope, what: str) -> None:
    """Refuse ``what``, a part of a request, unless the caller's key has a scope of its own for it.

    Raises:
        ApiProblem: 403.
    """
    caller = caller_of(request)
    if not caller.may(scope):
        raise _lacking(caller, scope, f", which {what} needs")


def _authorize(caller: Caller, route: Guarded) -> None:
    if route.need is None:
        detail = f"{route.path} declares no scope, so nobody may use it"
        raise ApiProblem("undeclared_scope", detail)
    assert isinstance(route.need, Scope)
    if not caller.may(route.need):
        raise _lacking(caller, route.need)


def _check_parameters(scope: Connection) -> None:
    """Refuse query parameters that the route does not take, or not more than once.

    Raises:
        ApiProblem: 422 that names each; for an unknown one the nearest of those that there are,
            and all of them.
    """
    route: Guarded | None = scope[ROUTE]
    if route is None or route.parameters is None or scope["method"] not in route.methods:
        return
    known = route.parameters
    sent = Counter(name for name, _ in QueryParams(scope["query_string"]).multi_items())
    unknown = (name[:NAME_LENGTH] for name in sent if name not in known)
    errors = [_unknown(name, known) for name in islice(unknown, NAMED)]
    errors += [
        parameter_error(name, "repeated", f"is given {sent[name]} times: give it once")
        for name in known
        if sent[name] > 1 and name not in route.lists
    ]
    if errors:
        raise invalid(errors)


def _unknown(name: str, known: tuple[str, ...]) -> dict[str, str]:
    if "hparams" in known and name in hparam_names():
        message = f'is a hyper-parameter: send it within hparams, as {{"{name}": …}}'
        return parameter_error(name, "misplaced", message)
    message = f"there is no such query parameter here; {known_names(name, known)}"
    return parameter_error(name, "unknown_parameter", message)


def _lacking(caller: Caller, scope: Scope, why: str = "") -> ApiProblem:
    detail = f"this key ({caller.id}) lacks the scope {scope.value!r}{why}"
    challenge = f'Bearer realm="jeep", error="insufficient_scope", scope="{scope.value}"'
    return ApiProblem("insufficient_scope", detail, headers={"WWW-Authenticate": challenge})


def _token(request: Request) -> str:
    """The key of a request: a bearer token, or, to read, the password of a browser's login.

    A browser adds its login to requests that other sites cause, so a login only allows reading.
    The console has sessions instead.
    """
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    reads = request.method in ("GET", "HEAD") and not in_console(request.url.path)
    if scheme.lower() == "basic" and reads:
        try:
            return base64.b64decode(value, validate=True).decode("ascii").partition(":")[2]
        except (binascii.Error, ValueError):
            return ""
    return ""


def _unauthorized(request: Request, given: bool) -> ApiProblem:
    challenge = 'Bearer realm="jeep"'
    if given:
        code, detail = "invalid_key", "the API key is unknown or revoked"
        challenge += ', error="invalid_token"'
    else:
        code = "no_key"
        detail = "an API key is needed: Authorization: Bearer …; jeep keys create makes one"
    html = "text/html" in request.headers.get("accept", "")
    if request.method == "GET" and html and not in_console(request.url.path):
        challenge = f'{challenge}, Basic realm="jeep: the key is the password", charset="UTF-8"'
    return ApiProblem(code, detail, headers={"WWW-Authenticate": challenge})


def refuse_foreign(request: Request) -> None:
    """Without keys, refuse requests that another site's page makes a local browser send.

    Raises:
        ApiProblem: 403 unless Host, and Origin if there is one, are this machine's.
    """
    headers: Mapping[str, str] = request.headers
    names = [_host_of("//" + headers.get("host", ""))]
    if "origin" in headers:
        names.append(_host_of(headers["origin"]))
    if not all(is_loopback(name) for name in names):
        detail = "authentication is off (JEEP_AUTH), so only this machine may ask, by its own name"
        raise ApiProblem("foreign_request", detail)


def _host_of(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
