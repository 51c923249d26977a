"""Access control: every route, keys and scopes, and the routes open without keys."""

import base64
import errno
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from support.service.played_worker.worker import PlayedWorker
from support.service.serving import running

from service.api import create_app
from service.api.http.access import PUBLIC, Guarded, guarded_routes, needs
from service.client import ApiError, Client
from service.contracts.schemas.access import Scope
from service.settings import Settings, SettingsError, load_settings
from service.store import Store

FACT = {"subject": "Lyon", "prompt": "{} is a city in the country of", "target_new": "Italy"}


@pytest.fixture
def guarded(settings: Settings) -> Settings:
    return settings.model_copy(update={"auth": "keys"})


@pytest.fixture
def url(guarded: Settings) -> Iterator[str]:
    with running(guarded) as address:
        yield address


def headers(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def token(store: Store, *scopes: Scope) -> str:
    return store.keys.create("-".join(scopes), scopes)[1]


def routes(settings: Settings) -> list[tuple[str, str, Guarded]]:
    found = guarded_routes(create_app(settings).routes)
    return [(m, r.path, r) for r in found for m in sorted(r.methods) or ["GET"]]


def filled(path: str) -> str:
    return re.sub(r"\{\w+(:\w+)?\}", "x", path)


def code_of(answer: httpx.Response) -> str | None:
    """The code of a problem, in whichever shape it is shown; HEAD shows none."""
    if answer.request.method == "HEAD":
        assert answer.content == b""
        return None
    body = answer.json()
    return str(body.get("error", body)["code"])


def test_every_route_declares_what_it_needs(guarded: Settings) -> None:
    found = routes(guarded)
    undeclared = [f"{method} {path}" for method, path, route in found if route.need is None]
    assert undeclared == []
    health = {"/livez", "/readyz"}
    console = {"", "/sign-in", "/sign-out", "/static/{path:path}"}  # without what a key opens
    open_to_all = health | {f"/console{path}" for path in console}
    assert {p for _, p, route in found if route.need is PUBLIC} == open_to_all
    assert {"/edits", "/docs", "/openapi.json", "/redoc"} <= {path for _, path, _ in found}
    assert {"/v1/completions", "/v1/models/{model:path}"} <= {path for _, path, _ in found}
    assert ("HEAD", "/exports/{id}/files/{path:path}") in {(m, path) for m, path, _ in found}


def test_routes_that_change_something_need_more_than_the_read_scope(guarded: Settings) -> None:
    weak = [
        f"{method} {path}"
        for method, path, route in routes(guarded)
        if method not in ("GET", "HEAD") and route.need is Scope.READ
    ]
    assert weak == []


def test_every_route_is_shut_without_a_key_and_without_its_scope(
    http: httpx.Client, model: Store, guarded: Settings
) -> None:
    keys = {need: token(model, *(set(Scope) - {need, Scope.ADMIN})) for need in Scope}
    tried = 0
    for method, path, route in routes(guarded):
        if route.need is PUBLIC:
            continue
        assert isinstance(route.need, Scope)
        bare = http.request(method, filled(path))
        shown = method != "HEAD"
        assert (bare.status_code, code_of(bare)) == (401, "no_key" if shown else None), path
        assert bare.headers["www-authenticate"].startswith("Bearer ")
        other = http.request(method, filled(path), headers=headers(keys[route.need]))
        refused = "insufficient_scope" if shown else None
        assert (other.status_code, code_of(other)) == (403, refused), path
        assert f'scope="{route.need}"' in other.headers["www-authenticate"]
        for answer in (bare, other):
            assert answer.headers["x-content-type-options"] == "nosniff", path
            assert "frame-ancestors 'none'" in answer.headers["content-security-policy"], path
        tried += 1
    assert tried >= 15


@pytest.mark.parametrize(
    "path",
    ["/snapshots", "/openapi.json", "/docs", "/redoc", "/docs/assets/favicon.png", "/v1/models",
     "/livez", "/readyz", "/metrics", "/nothing"],
)  # fmt: skip
def test_no_browser_guesses_types_or_frames_an_answer(
    path: str, http: httpx.Client, model: Store
) -> None:
    answer = http.get(path, headers=headers(token(model, Scope.ADMIN)))
    assert answer.headers["x-content-type-options"] == "nosniff"
    [policy] = answer.headers.get_list("content-security-policy")
    assert "frame-ancestors 'none'" in policy
    assert ("script-src" in policy) == (path in ("/docs", "/redoc"))


@pytest.mark.parametrize("scope", list(Scope))
def test_a_scope_opens_its_routes_and_admin_opens_all(
    scope: Scope, http: httpx.Client, model: Store, guarded: Settings
) -> None:
    key = headers(token(model, scope))
    for method, path, route in routes(guarded):
        if route.name == "sign_in":
            continue  # its 401 is about the key that was typed in
        answer = http.request(method, filled(path), headers=key)
        shut = answer.status_code in (401, 403)
        assert shut != (route.need in (scope, PUBLIC) or scope is Scope.ADMIN), path


@pytest.mark.anyio
@pytest.mark.parametrize("auth", ["keys", "off"])
async def test_a_route_that_declares_nothing_is_refused(
    auth: str, settings: Settings, model: Store, anyio_backend: str
) -> None:
    app = create_app(settings.model_copy(update={"auth": auth}))
    app.add_api_route("/new", lambda: {"open": True})
    app.mount("/old", FastAPI())
    app.mount("/known", needs(Scope.ADMIN)(FastAPI()))
    transport = httpx.ASGITransport(app=app)
    key = headers(token(model, Scope.ADMIN))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
        for path in ("/new", "/old/docs"):
            answer = await http.get(path, headers=key)
            assert (answer.status_code, answer.json()["code"]) == (403, "undeclared_scope")
        assert (await http.get("/known/openapi.json", headers=key)).status_code == 200
    await app.state.api.queue.close()


def test_a_judge_needs_the_scope_admin_beside_that_of_its_route(
    http: httpx.Client, model: Store, guarded: Settings
) -> None:
    judge = {"model": "m", "address": "http://127.0.0.1:9/v1"}
    body = {"suite": "atlas-counterfact", "free": {"judge": judge}}
    edit = headers(token(model, Scope.EDIT))
    answer = http.post("/evaluations", json=body, headers=edit)
    assert (answer.status_code, code_of(answer)) == (403, "insufficient_scope")
    assert 'scope="admin"' in answer.headers["www-authenticate"]
    without = {**body, "free": {}}
    assert http.post("/evaluations", json=without, headers=edit).status_code == 202
    admin = headers(token(model, Scope.ADMIN))
    assert http.post("/evaluations", json=body, headers=admin).status_code == 202


def test_unknown_paths_are_hidden_without_a_key(http: httpx.Client, model: Store) -> None:
    assert http.get("/nothing").status_code == 401
    key = headers(token(model, Scope.READ))
    assert http.get("/nothing", headers=key).json()["code"] == "not_found"
    assert http.put("/jobs", headers=key).headers["allow"] == "GET"


def test_keys_can_be_created_and_revoked_while_the_api_runs(
    http: httpx.Client, model: Store
) -> None:
    key = token(model, Scope.READ)
    assert http.get("/jobs", headers=headers(key)).status_code == 200
    model.keys.revoke("read")
    answer = http.get("/jobs", headers=headers(key))
    assert (answer.status_code, answer.json()["code"]) == (401, "invalid_key")
    assert key not in answer.text


@pytest.mark.parametrize(
    "value",
    ["", "Bearer", "Bearer x", "Basic !", "Basic AAAA", "Digest a", "Bearer \xff"],
)
def test_a_malformed_key_is_refused(value: str, http: httpx.Client, model: Store) -> None:
    answer = http.get("/jobs", headers={"Authorization": value.encode("latin-1")})
    assert answer.status_code == 401


def test_a_browser_may_read_with_the_key_as_password(http: httpx.Client, model: Store) -> None:
    page = http.get("/docs", headers={"Accept": "text/html"})
    assert "Basic realm" in page.headers["www-authenticate"]
    pair = base64.b64encode(f"me:{token(model, Scope.ADMIN)}".encode()).decode()
    login = {"Authorization": f"Basic {pair}"}
    page = http.get("/docs", headers=login)
    assert page.status_code == 200
    for address in re.findall(r'(?:src|href)="([^"]+)"', page.text):
        assert address.startswith("/docs/assets/"), "nothing is loaded from elsewhere"
        assert http.get(address, headers=login).status_code == 200
    assert not re.findall(r"https?://", page.text)
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert http.post("/rollback/base", headers=login).status_code == 401, "other sites could"


def test_a_refusal_comes_before_the_body_is_read(http: httpx.Client, model: Store) -> None:
    answer = http.post("/edits", content=(b"x" * 10_000 for _ in range(5)))
    assert (answer.status_code, answer.json()["code"]) == (401, "no_key")
    assert http.get("/livez").status_code == 200


def test_the_description_names_scopes_and_refusals(guarded: Settings) -> None:
    description = create_app(guarded).openapi()
    assert description["components"]["securitySchemes"]["ApiKey"]["scheme"] == "bearer"
    edits = description["paths"]["/edits"]["post"]
    assert edits["security"] == [{"ApiKey": ["edit"]}]
    assert {"401", "403"} <= edits["responses"].keys()
    health = description["paths"]["/livez"]["get"]
    assert health["security"] == []
    assert "401" not in health["responses"]


def test_the_client_brings_its_key(url: str, model: Store, worker: PlayedWorker) -> None:
    everything = token(model, Scope.READ, Scope.GENERATE, Scope.EDIT)
    with Client(url, api_key=everything) as client:
        client.wait_ready(10)
        assert client.wait(client.edit([FACT]).id).base_version == "v0"
        assert client.generate("a").results[0].version == "v1"
    with Client(url) as client, pytest.raises(ApiError, match="401 no_key"):
        client.snapshot()
    for wrong in ("", "secret", "jeep_ \n"):
        with pytest.raises(ValueError, match="no API key") as refused:
            Client(url, api_key=wrong)
        assert not wrong or wrong not in str(refused.value)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "example.org", ""])
def test_without_keys_it_serves_this_machine_only(
    host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JEEP_HOST", raising=False)
    given = {"host": host} if host else {"host": " "}
    with pytest.raises(SettingsError, match="JEEP_AUTH"):
        load_settings(auth="off", **given)
    for loopback in ("127.0.0.1", "localhost", "::1", "127.8.8.8"):
        assert load_settings(auth="off", host=loopback).host == loopback
    assert load_settings().auth == "keys"


def test_without_keys_other_sites_cannot_use_the_browser(settings: Settings, store: Store) -> None:
    with running(settings) as url, httpx.Client(base_url=url) as http:
        assert http.get("/jobs").status_code == 200
        for foreign in (
            {"Host": "evil.example"},  # its name was made to resolve to this machine
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
            {"Host": "[", "Origin": "http://localhost"},
        ):
            answer = http.post("/rollback/base", headers=foreign)
            assert (answer.status_code, answer.json()["code"]) == (403, "foreign_request")
        own = {"Origin": "http://localhost:3000"}
        assert http.post("/rollback/base", headers=own).status_code == 404


def test_a_key_that_cannot_be_read_now_is_not_unknown(
    url: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, read_bytes = headers(token(store, Scope.READ)), Path.read_bytes

    def hindered(path: Path) -> bytes:
        if path.parent.name == "keys":
            raise OSError(errno.EMFILE, "Too many open files", str(path))
        return read_bytes(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", hindered)
        answer = httpx.get(f"{url}/jobs", headers=key)
    assert (answer.status_code, code_of(answer)) == (503, "temporarily_unavailable")
    assert httpx.get(f"{url}/jobs", headers=key).status_code == 200
