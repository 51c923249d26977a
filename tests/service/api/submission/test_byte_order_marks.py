"""A byte-order mark before a body, as some editors write it: passed over by every route."""

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from service.api import create_app
from service.api.http.access import PUBLIC, guarded_routes
from service.settings import Settings
from service.store import Store

FACT = {"subject": "Lyon", "prompt": "{} is a city in the country of", "target_new": "Italy"}
RECORD = {**FACT, "ground_truth": "France", "rephrase_prompt": "a", "locality_prompt": "b"}
BY_LINE = "application/x-ndjson"


def answers(
    http: httpx.Client, path: str, content: str, kind: str = "application/json"
) -> Iterator[tuple[int, Any]]:
    """Without a mark and with one."""
    for before in (b"", codecs.BOM_UTF8):
        headers = {"Content-Type": kind, "X-Request-Id": "mine"}
        found = http.post(path, content=before + content.encode(), headers=headers)
        yield found.status_code, found.json()


@pytest.mark.parametrize(
    ("path", "content", "kind"),
    [
        ("/edits?dry_run=true", json.dumps({"facts": [FACT]}), "application/json"),
        ("/edits?dry_run=true&format=auto", json.dumps([FACT]), "application/json"),
        ("/edits?dry_run=true", f"{json.dumps(FACT)}\n{json.dumps(FACT)}", BY_LINE),
        ("/edits?dry_run=true", json.dumps(RECORD), BY_LINE),
    ],
)
def test_facts_are_read_after_it(
    path: str, content: str, kind: str, http: httpx.Client, model: Store
) -> None:
    plain, marked = answers(http, path, content, kind)
    assert plain[0] == 200
    assert marked == plain


def test_every_route_takes_it_before_json(
    http: httpx.Client, settings: Settings, model: Store
) -> None:
    """None calls it malformed, and none answers otherwise than without it."""
    asked = 0
    for route in guarded_routes(create_app(settings).routes):
        if "POST" not in route.methods or route.need is PUBLIC:
            continue
        path = re.sub(r"\{\w+(:\w+)?\}", "x", route.path)
        plain, marked = answers(http, path, '{"no_such_field": 1}')
        assert marked == plain, path
        asked += 1
    assert asked > 25
