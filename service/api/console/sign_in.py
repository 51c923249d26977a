"""Signing in with a key, signing out, and the page that a reader begins with."""

from __future__ import annotations

import logging

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import RedirectResponse

from service.api.console.forms import read_form
from service.api.console.middleware import SIGN_IN
from service.api.console.navigation import START, offered
from service.api.console.pages.start import is_new
from service.api.console.rendering import page
from service.api.http.access import public, refuse_foreign
from service.api.http.auditing import noted
from service.api.http.problems import PROBLEM
from service.api.http.sessions import CONSOLE, caller_with, check_origin, in_console
from service.api.state import ApiState, State
from service.contracts.schemas.access import LOCAL, Caller

router = APIRouter()
log = logging.getLogger(__name__)


@router.get(CONSOLE)
@public
async def console(request: Request, state: State) -> Response:
    """The first page that the reader may open; without a session, the one to sign in."""
    caller = _reader(request, state)
    if caller is None:
        return RedirectResponse(SIGN_IN, 303)
    if caller.may(START.scope) and await run_in_threadpool(is_new, state.store):
        return RedirectResponse(START.path, 303)
    return RedirectResponse(offered(caller)[0].path, 303)  # who has signed in may open one


@router.get(SIGN_IN)
@public
async def sign_in_page(request: Request, state: State, next: str = "") -> Response:
    """The form that takes a key."""
    if _reader(request, state) is not None:
        return RedirectResponse(_inside(next), 303)
    return page(request, "sign_in.html", next=_inside(next), refused="")


@router.post(SIGN_IN)
@public
async def sign_in(request: Request, state: State) -> Response:
    """Begin a session, if the key is good.  Either way the audit log gets a line."""
    noted(request)
    check_origin(request)
    await state.sessions.count_try(request)
    form = await read_form(request)
    target = _inside(form.get("next"))
    key = await run_in_threadpool(state.store.keys.owner, form.get("key").strip())
    if key is not None:
        noted(request, caller_with(key))
    if key is None or key.revoked_at is not None:
        request.scope[PROBLEM] = "invalid_key"
        log.warning("a sign-in to the console was refused")
        refused = "This key is unknown or revoked. “jeep keys create NAME” makes one."
        return page(request, "sign_in.html", 401, next=target, refused=refused)
    if not offered(caller_with(key)):
        request.scope[PROBLEM] = "insufficient_scope"
        refused = "This key is a follower's and opens no page. “jeep keys create NAME” makes one."
        return page(request, "sign_in.html", 403, next=target, refused=refused)
    answer = RedirectResponse(target, 303)
    state.sessions.begin(key, request, answer)
    return answer


@router.post(f"{CONSOLE}/sign-out")
@public
async def sign_out(request: Request, state: State) -> Response:
    """End the session.  Other sites cannot: they send no cookie, and their origin is refused."""
    key = await run_in_threadpool(state.sessions.key, request)
    if key is not None:
        noted(request, caller_with(key))
    check_origin(request)
    answer = RedirectResponse(SIGN_IN, 303)
    state.sessions.end(request, answer)
    return answer


def _reader(request: Request, state: ApiState) -> Caller | None:
    if state.settings.auth == "off":
        refuse_foreign(request)
        return LOCAL
    return state.sessions.caller(request)


def _inside(target: str) -> str:
    """A path of the console to go to: what was asked for, unless it leads elsewhere."""
    path = target.partition("?")[0].partition("#")[0]
    plain = all("!" <= letter <= "~" and letter != "\\" for letter in target)
    return target if plain and in_console(path) and ".." not in path else CONSOLE
