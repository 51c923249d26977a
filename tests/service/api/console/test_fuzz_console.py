"""Generated requests for every route of the console: answered, never with an unforeseen error."""

import re
from urllib.parse import quote, urlencode

import httpx
from hypothesis import given
from hypothesis import strategies as st
from support.service.console import TOKEN
from support.service.fuzzing import bounded

from service.api import create_app
from service.api.http.access import guarded_routes
from service.api.http.sessions import in_console
from service.settings import Settings
from service.store import Store

ANSWERS = frozenset({200, 202, 303, 400, 401, 403, 404, 405, 409, 413, 415, 422, 429, 503})
FIELDS = (
    "fact", "key", "next", "prompt", "messages", "version", "answer", "limit", "after", "x",
    "subject", "lost", "again", "first", "count", "which", "editor", "preset", "format", "name",
    "missing", "suite", "kind", "others", "n_edits", "seed", "free", "target", "a", "b",
    "ref", "start", "lanes", "search", "head", "queued", "why", "snapshot_name", "peft.max_rank",
    "candidate",
)  # fmt: skip

text = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        ["", "0", "-1", "9" * 30, "base", "head", "v1", "[]", "[{}]", "{}", "\x00", "²"]
    ),
)
form = st.lists(st.tuples(st.sampled_from(FIELDS), text), max_size=6).map(urlencode)
body = st.one_of(
    form.map(str.encode),
    st.binary(max_size=30),
    st.sampled_from(
        [
            b"{}",
            b"[]",
            b'{"prompt": 1}',
            b'{"facts": [1]}',
            b"a\tb\tc",
            b"%ff=%ff",
            b"a=%",
            b"&&==;",
        ]
    ),
)
kind = st.sampled_from(
    ["application/x-www-form-urlencoded", "application/json", "text/plain", "", "a/b; c"]
)
shown = st.sampled_from([{"HX-Request": "true"}, {"Accept": "text/html"}, {}])


def test_every_route_of_the_console_answers_whatever_comes(
    http: httpx.Client, model: Store, settings: Settings
) -> None:
    routes = [
        (method, route.path)
        for route in guarded_routes(create_app(settings).routes)
        for method in sorted(route.methods)
        if in_console(route.path)
    ]
    assert ("POST", "/console/ask/stream") in routes
    found = TOKEN.search(http.get("/console/state").text)
    assert found
    token = {found[2]: found[1]}

    @bounded(30)
    @given(st.sampled_from(routes), text, form, body, kind, shown, st.booleans())
    def run(
        route: tuple[str, str], part: str, query: str, content: bytes, content_type: str,
        headers: dict[str, str], allowed: bool,
    ) -> None:  # fmt: skip
        method, path = route
        filled = re.sub(r"\{\w+(:\w+)?\}", lambda _: quote(part, safe="") or "x", path)
        given_headers = headers | ({"Content-Type": content_type} if content_type else {})
        answer = http.request(
            method, f"{filled}?{query}", content=content if method == "POST" else None,
            headers=given_headers | (token if allowed else {}),
        )  # fmt: skip
        assert answer.status_code in ANSWERS, (answer.status_code, answer.text)
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-request-id"]

    run()
