"""What pages ask of the api: in the name of their reader, counted once, audited once."""

import asyncio
from typing import Any

import httpx
import pytest
from fastapi import Request
from support.service.console import new_key

from service.api import create_app
from service.api.console.calls import Calls, at
from service.api.http.access import needs
from service.api.http.sessions import CONSOLE
from service.contracts.schemas import JobOut, Snapshot
from service.contracts.schemas.access import Scope
from service.settings import Settings
from service.store import Store

FACT = {"subject": "Lyon", "prompt": "{} is a city in the country of", "target_new": "Italy"}


def asked(settings: Settings, key: str, path: str, method: str = "POST") -> httpx.Response:
    """The answer of an app with a page that edits, one that names, and one that only looks."""

    async def edit(request: Request) -> JobOut:
        return await Calls(request).post("/edits", JobOut, {"facts": [FACT]})

    async def name(request: Request) -> Snapshot:
        body = {"name": "good", "version": "v0"}
        return await Calls(request).post("/snapshots", Snapshot, body)

    async def look(request: Request) -> Snapshot:
        return await Calls(request).get("/snapshots/v0", Snapshot)

    async def ask() -> httpx.Response:
        app = create_app(settings.model_copy(update={"auth": "keys", "rate_per_minute": 1200}))
        routes: dict[str, Any] = {"edit": edit, "name": name, "look": look}
        for route, function in routes.items():
            app.add_api_route(
                f"{CONSOLE}/a-test/{route}", needs(Scope.READ)(function), methods=["POST", "GET"],
                response_model=None,
            )  # fmt: skip
        transport = httpx.ASGITransport(app=app)
        headers = {"Authorization": f"Bearer {key}", "X-Request-Id": "req-outer"}
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            answer = await http.request(method, f"{CONSOLE}/a-test/{path}", headers=headers)
        await app.state.api.queue.close()
        return answer

    return asyncio.run(ask())


def test_a_change_is_audited_as_the_apis_own_with_the_key_of_the_reader(
    settings: Settings, model: Store
) -> None:
    key = new_key(model, Scope.READ, Scope.EDIT, name="ana")
    answer = asked(settings, key, "name")
    assert (answer.status_code, answer.json()["names"]) == (200, ["good"])
    [(_, entry)] = model.audit.entries()
    assert (entry.name, entry.action, entry.target) == ("ana", "name_snapshot", "/snapshots")
    assert (entry.status, entry.version, entry.request_id) == (201, "v0", "req-outer")


def test_a_page_can_do_no_more_than_the_key_of_its_reader(settings: Settings, model: Store) -> None:
    answer = asked(settings, new_key(model, Scope.READ, name="eve"), "edit")
    assert (answer.status_code, answer.json()["code"]) == (403, "insufficient_scope")
    assert list(model.journal.all()) == []
    [(_, entry)] = model.audit.entries()
    assert (entry.name, entry.action, entry.status) == ("eve", "submit_edit", 403)
    assert asked(settings, new_key(model, Scope.READ), "look", "GET").json()["id"] == "v0"


def test_a_refusal_comes_through_as_it_is(settings: Settings, model: Store) -> None:
    key = new_key(model, Scope.READ, Scope.EDIT)
    model.names.give("good", "v0")
    asked(settings, key, "name")
    answer = asked(settings.model_copy(update={"max_queue": 1}), key, "edit")
    assert answer.status_code == 200, answer.text
    full = asked(settings.model_copy(update={"max_queue": 1}), key, "edit")
    assert (full.status_code, full.json()["code"]) == (429, "queue_full")
    assert full.headers["retry-after"] == "5"
    assert full.json()["request_id"] == "req-outer"


@pytest.mark.parametrize(
    ("part", "path"),
    [
        ("v1", "/snapshots/v1/export"),
        ("..", "/snapshots/%2E%2E/export"),
        ("a/../../edits", "/snapshots/a%2F%2E%2E%2F%2E%2E%2Fedits/export"),
        ("a?b=c#d", "/snapshots/a%3Fb%3Dc%23d/export"),
        ("\x1f\x00%", "/snapshots/%1F%00%25/export"),
        ("{0}\ud800", "/snapshots/%7B0%7D%3F/export"),
    ],
)
def test_a_part_of_a_path_stays_one_part(part: str, path: str) -> None:
    assert at("/snapshots/{}/export", part) == path


def test_a_strangers_headers_name_nobody(settings: Settings, model: Store) -> None:
    """Who asks is kept beside the request, where nothing that is sent can reach it."""

    async def ask() -> int:
        app = create_app(settings.model_copy(update={"auth": "keys"}))
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            answer = await http.get("/jobs", headers={"jeep.caller": "local", "jeep-caller": "x"})
        await app.state.api.queue.close()
        return answer.status_code

    assert asyncio.run(ask()) == 401
