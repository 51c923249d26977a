"""Signing in and out with a browser, at a service with keys."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect
from support.service.bundled_model import publish
from support.service.console.pictures import look_at
from support.service.serving import make_settings, running

from service.contracts.schemas.access import Scope
from service.ops.embedded_server import EmbeddedValkey
from service.store import Store


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[tuple[str, Store]]:
    """An api with keys, and its store."""
    (tmp_path / "valkey").mkdir()
    with EmbeddedValkey(tmp_path / "valkey") as server:
        settings = make_settings(tmp_path / "store", server.url)
        store = Store.open(settings.store)
        publish(store)
        with running(settings.model_copy(update={"auth": "keys"})) as url:
            yield url, store


def test_a_key_opens_what_its_scopes_allow(guarded: tuple[str, Store], chromium: Browser) -> None:
    url, store = guarded
    _, token = store.keys.create("ana", [Scope.READ])
    context = chromium.new_context(base_url=url)
    page = context.new_page()
    page.goto("/console/state")
    expect(page).to_have_url(f"{url}/console/sign-in?next=%2Fconsole%2Fstate")
    expect(page.locator("#key")).to_be_focused()
    page.keyboard.type("jeep_wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert").filter(has_text="unknown or revoked")).to_be_visible()
    look_at(page, "sign-in")
    page.locator("#key").fill(token)
    page.keyboard.press("Enter")
    expect(page).to_have_url(f"{url}/console/state")
    pages = page.get_by_role("navigation").get_by_role("link")
    expect(pages).to_have_text(["History", "Facts", "State"])
    page.goto("/console/ask")
    expect(page.locator(".problem")).to_contain_text("lacks the scope 'generate'")
    look_at(page, "refused")
    [cookie] = context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Strict", "/console")
    page.get_by_role("button", name="Sign out").click()
    expect(page).to_have_url(f"{url}/console/sign-in")
    page.go_back()
    page.reload()
    expect(page.locator("h1")).to_have_text("Sign in")
    context.close()


def test_a_session_that_has_ended_leads_to_sign_in(
    guarded: tuple[str, Store], chromium: Browser
) -> None:
    """Also where the page only asked for a part of itself."""
    url, store = guarded
    _, token = store.keys.create("ana", [Scope.READ])
    context = chromium.new_context(base_url=url)
    page = context.new_page()
    page.goto("/console")
    page.locator("#key").fill(token)
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_be_visible()
    page.goto("/console/state")
    store.keys.revoke("ana")
    expect(page).to_have_url(f"{url}/console/sign-in?next=%2Fconsole%2Fstate", timeout=10_000)
    context.close()
