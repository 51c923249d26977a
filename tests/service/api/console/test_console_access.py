"""Who may open the console: signing in and out, sessions, changes, other sites."""

import httpx
import pytest
from fastapi import Request, Response
from support.service.console import browser, new_key, sign_in
from support.service.serving import running

from service.api import create_app
from service.api.console.middleware import HEADERS
from service.api.console.navigation import NAVIGATION
from service.api.http.access import guarded_routes
from service.api.http.sessions import PER_KEY, SIGN_INS_PER_MINUTE, Sessions
from service.contracts.schemas.access import Scope
from service.settings import Settings
from service.store import Store


def test_a_browser_is_led_to_sign_in_and_back_to_where_it_wanted(
    shown: httpx.Client, kept: Store
) -> None:
    asked = shown.get("/console/state?x=1")
    assert asked.url.path == "/console/sign-in"
    assert asked.url.params["next"] == "/console/state?x=1"
    token = new_key(kept, Scope.READ)
    form = {"key": f" {token} ", "next": asked.url.params["next"]}
    page = shown.post("/console/sign-in", data=form)
    assert (page.status_code, str(page.url.raw_path, "ascii")) == (200, "/console/state?x=1")
    assert "Sign out" in page.text
    assert token not in page.text
    assert shown.get("/console/sign-in").url.path == "/console/start", "signed in already"


@pytest.mark.parametrize(
    "target",
    ["https://evil.example/console", "//evil.example/console", "/console/../edits", "/edits",
     "/console\\evil", "/consoles", "/console/\r\nSet-Cookie: a=b", "javascript:alert(1)"],
)  # fmt: skip
def test_signing_in_leads_nowhere_else(target: str, shown: httpx.Client, kept: Store) -> None:
    token = new_key(kept, Scope.READ)
    data = {"key": token, "next": target}
    answer = shown.post("/console/sign-in", data=data, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/console")


def test_the_cookie_is_for_the_console_alone(shown: httpx.Client, kept: Store) -> None:
    token = new_key(kept, Scope.ADMIN)
    answer = shown.post("/console/sign-in", data={"key": token}, follow_redirects=False)
    name, _, rest = answer.headers["set-cookie"].partition("=")
    assert rest.lower().endswith("; httponly; max-age=43200; path=/console; samesite=strict")
    assert token.partition("_")[2] not in rest
    cookie = {"Cookie": f"{name}={rest.partition(';')[0]}"}
    for path in ("/jobs", "/openapi.json", "/v1/models"):
        assert httpx.get(shown.base_url.join(path), headers=cookie).status_code == 401


def test_a_wrong_key_is_refused_and_tries_are_limited(shown: httpx.Client, kept: Store) -> None:
    _, revoked = kept.keys.create("old", [Scope.READ])
    kept.keys.revoke("old")
    for key in ("", "secret", "jeep_", revoked, "\u00e9\u0000"):
        refused = shown.post("/console/sign-in", data={"key": key})
        assert refused.status_code == 401
        assert "unknown or revoked" in refused.text
        assert "set-cookie" not in refused.headers
    for _ in range(SIGN_INS_PER_MINUTE):
        last = shown.post("/console/sign-in", data={"key": "x"})
    assert last.status_code == 429
    assert int(last.headers["retry-after"]) >= 1
    assert "tries to sign in" in last.text
    token = new_key(kept, Scope.READ)
    assert shown.post("/console/sign-in", data={"key": token}).status_code == 429
    key = {"Authorization": f"Bearer {token}"}
    assert httpx.get(f"{shown.base_url}/jobs", headers=key).status_code == 200


def test_a_key_that_opens_no_page_is_refused(shown: httpx.Client, kept: Store) -> None:
    token = new_key(kept, Scope.FOLLOW)
    refused = shown.post("/console/sign-in", data={"key": token})
    assert (refused.status_code, "opens no page" in refused.text) == (403, True)
    assert "set-cookie" not in refused.headers
    assert next(iter(kept.audit.entries()))[1].code == "insufficient_scope"


def test_signing_out_ends_the_session(shown: httpx.Client, kept: Store) -> None:
    sign_in(shown, kept)
    cookies = dict(shown.cookies)
    assert shown.get("/console/state").url.path == "/console/state"
    assert shown.post("/console/sign-out").url.path == "/console/sign-in"
    assert not shown.cookies
    again = {"Cookie": "; ".join(f"{name}={value}" for name, value in cookies.items())}
    assert shown.get("/console/state", headers=again).url.path == "/console/sign-in"


def test_a_revoked_key_and_other_scopes_count_at_once(shown: httpx.Client, kept: Store) -> None:
    name = sign_in(shown, kept, Scope.READ)
    assert shown.get("/console/state").url.path == "/console/state"
    kept.keys.revoke(name)
    assert shown.get("/console/state").url.path == "/console/sign-in"


def test_parts_of_pages_lead_to_sign_in_once_a_session_has_ended(shown: httpx.Client) -> None:
    sent = {"HX-Request": "true", "HX-Current-URL": f"{shown.base_url}/console/state"}
    answer = shown.get("/console/state/live", headers=sent)
    assert answer.status_code == 401
    assert answer.headers["hx-redirect"] == "/console/sign-in?next=%2Fconsole%2Fstate"


def test_what_a_key_may_not_do_is_refused_with_the_reason(shown: httpx.Client, kept: Store) -> None:
    sign_in(shown, kept, Scope.EDIT)
    assert shown.get("/console").url.path == "/console/edit"
    page = shown.get("/console/state")
    assert page.status_code == 403
    assert "lacks the scope &#39;read&#39;" in page.text
    assert 'href="/console/state"' not in page.text
    part = shown.get("/console/state/live", headers={"HX-Request": "true"})
    assert (part.status_code, "<html" in part.text) == (403, False)


def test_a_browsers_login_opens_nothing_here(shown: httpx.Client, kept: Store) -> None:
    token = new_key(kept, Scope.ADMIN)
    with_login = shown.get("/console/state", auth=("me", token))
    assert with_login.url.path == "/console/sign-in"
    assert "basic" not in str(with_login.history[0].headers).lower()
    bearer = shown.get("/console/state", headers={"Authorization": f"Bearer {token}"})
    assert (bearer.status_code, bearer.url.path) == (200, "/console/state")


FOREIGN = (
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://["},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
)


@pytest.mark.parametrize("foreign", FOREIGN)
@pytest.mark.parametrize("path", ["/console/sign-in", "/console/sign-out"])
def test_forms_of_other_sites_are_refused(
    path: str, foreign: dict[str, str], shown: httpx.Client, kept: Store
) -> None:
    sign_in(shown, kept)
    token = new_key(kept, Scope.READ)
    answer = shown.post(path, data={"key": token}, headers=foreign, follow_redirects=False)
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers
    own = {"Origin": str(shown.base_url).rstrip("/"), "Sec-Fetch-Site": "same-origin"}
    assert shown.post(path, data={"key": token}, headers=own).status_code == 200


def test_sessions_end_and_one_key_has_not_any_number(settings: Settings, model: Store) -> None:
    """On the class itself, with a clock of the test's."""
    time = [0.0]
    guarded = settings.model_copy(update={"auth": "keys", "console_hours": 1.0})
    sessions = Sessions(model, guarded, None, clock=lambda: time[0])  # type: ignore[arg-type]

    def request(cookie: str = "") -> Request:
        headers = [(b"cookie", cookie.encode()), (b"host", b"localhost")]
        scope = {"type": "http", "method": "GET", "path": "/console", "headers": headers,
                 "query_string": b"", "scheme": "http", "server": ("localhost", 80)}  # fmt: skip
        return Request(scope)

    def begun() -> str:
        response = Response()
        sessions.begin(key, request(), response)
        return response.headers["set-cookie"].partition(";")[0]

    key, _ = model.keys.create("ana", [Scope.READ])
    first = begun()
    found = sessions.caller(request(first))
    assert found is not None
    assert (found.id, found.name, found.scopes) == (key.id, "ana", {Scope.READ})
    time[0] = 3599.0
    others = [begun() for _ in range(PER_KEY - 1)]
    assert sessions.caller(request(first)) == found
    newest = begun()
    assert sessions.caller(request(first)) is None, "the oldest made room"
    assert sessions.caller(request(others[0])) == found
    time[0] += 3600.0
    assert sessions.caller(request(newest)) is None
    assert sessions.token_for(request(newest)) == ""


def test_every_answer_has_the_headers_that_browsers_obey(shown: httpx.Client, kept: Store) -> None:
    answers = [
        shown.get("/", follow_redirects=False),
        shown.get("/console", follow_redirects=False),
        shown.get("/console/sign-in"),
        shown.get("/console/static/console.css"),
        shown.get("/console/nothing", headers={"Accept": "*/*"}),
        shown.post("/console/sign-in", data={"key": "x"}),
        shown.post("/console/sign-in", content=b"\xff", headers={"Content-Type": "text/csv"}),
    ]
    sign_in(shown, kept)
    answers += [shown.get(path) for path in ("/console/state", "/console/nothing")]
    for answer in answers:
        assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS, answer.url
    assert HEADERS["Content-Security-Policy"] == (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' data:; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    )
    assert {a.headers["cache-control"] for a in answers[-2:]} == {"no-store"}


def test_the_root_is_the_console_for_browsers_and_as_before_for_others(
    shown: httpx.Client, kept: Store
) -> None:
    led = shown.get("/", follow_redirects=False)
    assert (led.status_code, led.headers["location"]) == (303, "/console")
    plain = httpx.get(str(shown.base_url))
    assert (plain.status_code, plain.json()["code"]) == (401, "no_key")
    assert plain.headers["content-security-policy"] == "frame-ancestors 'none'", "no page"
    key = {"Authorization": f"Bearer {new_key(kept, Scope.READ)}"}
    found = httpx.get(str(shown.base_url), headers=key)
    assert (found.status_code, found.json()["code"]) == (404, "not_found")


def test_without_keys_nobody_signs_in_and_other_hosts_are_refused(
    settings: Settings, model: Store
) -> None:
    with running(settings) as url, browser(url) as person:
        page = person.get("/")
        assert page.status_code == 200
        assert page.url.path == "/console/start"
        assert "Sign out" not in page.text
        assert person.get("/console/sign-in").url.path == "/console/start"
        for path in ("/console", "/console/state", "/console/sign-in"):
            foreign = person.get(path, headers={"Host": "evil.example"}, follow_redirects=False)
            assert foreign.status_code == 403


def test_the_console_can_be_switched_off(settings: Settings, model: Store) -> None:
    with running(settings.model_copy(update={"console": "off"})) as url, browser(url) as person:
        for path in ("/", "/console", "/console/state", "/console/static/console.css"):
            answer = person.get(path)
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_the_navigation_names_routes_with_the_scope_that_they_need(settings: Settings) -> None:
    app = create_app(settings)
    shown = [route for route in guarded_routes(app.routes) if "GET" in route.methods]
    found = {route.path: route.need for route in shown}
    for entry in NAVIGATION:
        assert found[entry.path] is entry.scope
    described = {getattr(route, "path", ""): route for route in app.routes}
    assert not [
        path
        for path, route in described.items()
        if path.startswith("/console") and getattr(route, "include_in_schema", True)
    ]
