"""Keys with one scope: what a page offers, and what follows an action, is not refused."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html import unescape
from urllib.parse import urlsplit

import httpx
import pytest
from support.service.console import browser, change_headers, seen, sign_in
from support.service.console.histories import write_history
from support.service.played_worker.worker import PlayedWorker
from support.service.serving import running

from service.api import create_app
from service.api.http.access import PUBLIC, Guarded, guarded_routes
from service.api.http.sessions import CONSOLE, in_console
from service.contracts.schemas.access import Scope
from service.settings import Settings
from service.store import Store

V1 = "/console/history/versions/v1"
V2 = "/console/history/versions/v2"
V3 = "/console/history/versions/v3"
V4 = "/console/history/versions/v4"
FACT = {"subject": "Rome", "prompt": "{} is a city in the country of", "target_new": "Chile"}
LINE = json.dumps({**FACT, "target_true": "Italy"})
OFFERS = re.compile(r'\b(href|action|hx-get|hx-post|data-part|data-sends)="(/[^"]*)"')
MOST_PAGES = 150

ACTIONS: dict[str, tuple[str, dict[str, object] | str]] = {
    "/console/ask/stream": ("/console/ask/stream", {"prompt": "Lyon"}),
    "/console/ask/why": ("/console/ask/why", "prompt=Lyon&version=head"),
    "/console/edit": ("/console/edit", {"facts": [FACT]}),
    "/console/edit/check": ("/console/edit/check", {"facts": [FACT]}),
    "/console/edit/read": ("/console/edit/read", LINE),
    "/console/edit/says": ("/console/edit/says", {"prompts": ["Lyon"]}),
    "/console/evaluations": ("/console/evaluations", "suite=atlas-zsre&version=base"),
    "/console/facts/ask": ("/console/facts/ask", "prompt=Lyon&version=head"),
    "/console/facts/check": ("/console/facts/check", "version=v1"),
    "/console/history/drift": ("/console/history/drift", "a=v1&b=v3"),
    "/console/history/versions/{ref}/activate": (f"{V4}/activate", ""),
    "/console/history/versions/{ref}/export": (f"{V1}/export", "format=merged"),
    "/console/history/versions/{ref}/name": (f"{V1}/name", "name=other"),
    "/console/history/versions/{ref}/revert": (f"{V3}/revert", "head=v3"),
    "/console/history/versions/{ref}/roll-back": (f"{V2}/roll-back", "head=v3"),
    "/console/jobs/{id}/cancel": ("/console/jobs/{job}/cancel", ""),
    "/console/probes": ("/console/probes", "version=base"),
    "/console/start/back": ("/console/start/back", ""),
    "/console/start/edit": ("/console/start/edit", "fact=0"),
    "/console/suites": ("/console/suites?name=mine", LINE),
}
"""Every change or question of the console: where it is sent, and a body that is taken."""
OPEN = {"/console/sign-in", "/console/sign-out"}
REFUSED_WITHOUT = {"/console/ask/why": Scope.READ}
"""What needs another scope as well, so that nothing happens without it."""


@pytest.fixture
def routes(settings: Settings) -> list[Guarded]:
    """Those of the console."""
    found = guarded_routes(create_app(settings).routes)
    return [route for route in found if in_console(route.path)]


@pytest.fixture
def person(settings: Settings, worker: PlayedWorker) -> Iterator[httpx.Client]:
    """A browser at a service with keys, a worker and a history."""
    write_history(worker.store)
    guarded = settings.model_copy(update={"auth": "keys"})
    with running(guarded) as url, browser(url) as made:
        yield made


def offered(answer: httpx.Response) -> list[tuple[str, str]]:
    """Method and address of all that an answer leads to in the console."""
    text = unescape(answer.text) if "<" in answer.text else ""
    found = [
        ("POST" if name in ("action", "hx-post", "data-sends") else "GET", place)
        for name, place in OFFERS.findall(answer.text)
    ]
    found = [("GET", at) if f'action="{at}" method="get"' in text else (m, at) for m, at in found]
    if answer.headers["content-type"].startswith("application/json"):
        place = answer.json().get("location")
        found += [("GET", place)] if place else []
    return [(method, unescape(at)) for method, at in found if in_console(urlsplit(at).path)]


def may(routes: list[Guarded], scope: Scope, method: str, address: str) -> bool:
    path = urlsplit(address).path
    route = next(one for one in routes if one.matches(path) and method in one.methods)
    return route.need is PUBLIC or route.need is scope or scope is Scope.ADMIN


def forbidden(routes: list[Guarded], scope: Scope, answer: httpx.Response) -> list[str]:
    return [f"{m} {at}" for m, at in offered(answer) if not may(routes, scope, m, at)]


@pytest.mark.parametrize("scope", [scope for scope in Scope if scope is not Scope.FOLLOW])
def test_a_page_offers_only_what_its_reader_may(
    scope: Scope, person: httpx.Client, worker: PlayedWorker, routes: list[Guarded]
) -> None:
    """From the first page on, whatever is linked or loaded by itself is opened, too."""
    sign_in(person, worker.store, scope)
    waiting, known = [CONSOLE], {CONSOLE}
    while waiting and len(known) < MOST_PAGES:
        place = waiting.pop(0)
        answer = person.get(place)
        assert answer.status_code == 200, (place, answer.text[-600:])
        assert forbidden(routes, scope, answer) == [], place
        for method, further in offered(answer):
            if method == "GET" and further not in known:
                known.add(further)
                waiting.append(further)
    assert len(known) > 3


def jobs(store: Store) -> int:
    return len(list(store.journal.all()))


@pytest.mark.parametrize("path", ACTIONS)
def test_what_follows_an_action_is_allowed_by_its_scope_alone(
    path: str, person: httpx.Client, worker: PlayedWorker, routes: list[Guarded]
) -> None:
    place, body = ACTIONS[path]
    scope = next(one.need for one in routes if one.path == path and "POST" in one.methods)
    assert isinstance(scope, Scope)
    worker.go.clear()
    sign_in(person, worker.store, scope)
    headers = change_headers(person.get("/console/nothing"))
    if "{job}" in place:
        made = person.post("/console/edit", json={"facts": [FACT]}, headers=headers)
        assert made.json()["location"] is None
        place = place.format(job=next(iter(worker.store.journal.all())).id)
    before = jobs(worker.store)
    answer = send(person, place, body, headers)
    if path in REFUSED_WITHOUT:
        assert (answer.status_code, jobs(worker.store)) == (403, before)
        assert f"lacks the scope '{REFUSED_WITHOUT[path].value}'" in seen(answer)
        return
    assert answer.status_code in (200, 202), answer.text
    assert forbidden(routes, scope, answer) == []
    if jobs(worker.store) > before and scope is not Scope.READ:
        told = answer.json()["said"] if "json" in answer.headers["content-type"] else seen(answer)
        assert re.search("ccepted as (job|edit|eval|probe)_", told)
        assert "needs a key with the scope read" in told
    worker.go.set()


def send(
    person: httpx.Client, place: str, body: dict[str, object] | str, headers: dict[str, str]
) -> httpx.Response:
    if isinstance(body, dict):
        accepts = {name: value for name, value in headers.items() if name != "HX-Request"}
        return person.post(place, json=body, headers=accepts | {"Accept": "application/json"})
    kind = (
        "application/octet-stream" if body.startswith("{") else "application/x-www-form-urlencoded"
    )
    return person.post(place, content=body, headers=headers | {"Content-Type": kind})


def test_every_action_of_the_console_is_among_them(routes: list[Guarded]) -> None:
    found = {route.path for route in routes if "POST" in route.methods}
    assert found == set(ACTIONS) | OPEN
