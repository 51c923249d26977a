"""Signing in and out is in the audit log: who, when, with what outcome, and no secret."""

from __future__ import annotations

import json
from itertools import islice

import httpx
from support.service.console import change_headers, new_key, seen, sign_in

from service.api.http.auditing import UNASKED_PER_MINUTE
from service.contracts.schemas.access import Scope
from service.store import Store

FOREIGN = {"Sec-Fetch-Site": "cross-site"}


def lines(store: Store, count: int) -> list[tuple[str, str, int | None, str | None]]:
    """Action, key, status and code of the newest lines, the latest last."""
    found = [entry for _, entry in islice(store.audit.entries(None), count)][::-1]
    return [(one.action, one.name or one.who, one.status, one.code) for one in found]


def test_a_sign_in_and_its_end_name_the_key(shown: httpx.Client, kept: Store) -> None:
    name = sign_in(shown, kept, Scope.READ)
    shown.post("/console/sign-out")
    assert lines(kept, 2) == [("sign_in", name, 303, None), ("sign_out", name, 303, None)]
    shown.post("/console/sign-out")
    assert lines(kept, 1) == [("sign_out", name, 303, None)], "nobody was signed in any more"


def test_a_refused_sign_in_has_a_line_without_the_secret(shown: httpx.Client, kept: Store) -> None:
    key, revoked = kept.keys.create("once", [Scope.ADMIN])
    kept.keys.revoke("once")
    wrong = revoked[:-4] + "AAAA"
    page = shown.post("/console/sign-in", data={"key": revoked})
    assert "Sign out" not in page.text, "a revoked key opens nothing, its navigation neither"
    shown.post(f"/console/sign-in?key={wrong}", data={"key": wrong})
    shown.post("/console/sign-in", data={"key": "x"}, headers=FOREIGN)
    assert lines(kept, 3) == [
        ("sign_in", "once", 401, "invalid_key"),
        ("sign_in", "anonymous", 401, "invalid_key"),
        ("sign_in", "anonymous", 403, "foreign_request"),
    ]
    written = (kept.root / "audit.jsonl").read_text()
    assert key.id in written
    for token in (revoked, wrong):
        assert token[32:] not in written


def test_strangers_cannot_fill_the_disk(shown: httpx.Client, kept: Store) -> None:
    log = kept.root / "audit.jsonl"
    before = log.read_text().count("\n")
    for _ in range(UNASKED_PER_MINUTE + 40):
        shown.post("/console/sign-in", data={"key": "x"}, headers=FOREIGN)
    assert log.read_text().count("\n") - before <= 2 * UNASKED_PER_MINUTE


def test_the_log_of_the_console_shows_who_signed_in(shown: httpx.Client, kept: Store) -> None:
    token = new_key(kept, Scope.ADMIN, name="boss")
    shown.post("/console/sign-in", data={"key": token})
    assert "boss sign in /console/sign-in" in seen(shown.get("/console/history/audit"))


def test_what_only_asks_what_a_change_would_do_has_no_line(
    shown: httpx.Client, kept: Store
) -> None:
    """The page "Edit" asks at every key."""
    sign_in(shown, kept, Scope.READ, Scope.EDIT)
    headers = change_headers(shown.get("/console/edit"))
    fact = {"subject": "Lyon", "prompt": "{} is in", "target_new": "Japan"}
    log = kept.root / "audit.jsonl"
    before = log.read_text()
    for facts in ([fact], [fact | {"prompt": ""}]):
        answer = shown.post("/console/edit/check", json={"facts": facts}, headers=headers)
        assert answer.status_code == 200
    read = shown.post("/console/edit/read", content=json.dumps(fact), headers=headers)
    assert read.status_code == 200
    key = {"Authorization": f"Bearer {new_key(kept, Scope.EDIT)}"}
    interface = httpx.post(
        f"{shown.base_url}/edits?dry_run=true", json={"facts": [fact]}, headers=key
    )
    assert interface.status_code == 200
    assert log.read_text() == before
    shown.post("/console/edit", json={"facts": [fact]}, headers=headers)
    assert lines(kept, 1)[0][0] == "submit_edit"
