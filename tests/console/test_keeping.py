"""What a browser keeps: typed facts, the form over signing in again, the place of the keyboard."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, expect
from support.service.bundled_model import publish
from support.service.console.pictures import look_at
from support.service.serving import make_settings, running

from service.contracts.schemas.access import Scope
from service.ops.embedded_server import EmbeddedValkey
from service.store import Store

PROMPT = "{} is a city in the country of"
LINK = "/console/edit?subject=Graz&prompt=%7B%7D+is+in&target_new=Peru"
PROMPTS = ["Lyon is a city in the country of", "Nice is in"]


def write(page: Page, subject: str) -> None:
    for name, text in (("Subject", subject), ("Prompt", PROMPT), ("New answer", "Peru")):
        page.get_by_label(f"{name} of fact 1", exact=True).fill(text)


def test_a_link_and_remove_all_put_typed_facts_aside(page: Page) -> None:
    first, rows = page.get_by_label("Subject of fact 1", exact=True), page.locator("tr.fact")
    page.goto("/console/edit")
    write(page, "Turin")
    page.get_by_text("Editor and preset").click()
    page.get_by_text("Hyper-parameters").click()
    page.locator("[data-hparam=n_steps]").fill("7")
    page.reload()
    expect(page.locator("[data-hparam=n_steps]")).to_have_value("7")
    page.goto(LINK)
    expect(first).to_have_value("Graz")
    expect(page.locator("#aside")).to_contain_text("1 fact put aside")
    first.fill("Linz")
    page.reload()
    expect(first).to_have_value("Linz")
    look_at(page, "edit-aside")
    page.get_by_role("button", name="Put them back").click()
    expect(rows).to_have_count(2)
    expect(page.locator("#aside")).to_be_hidden()
    page.get_by_role("button", name="Remove all").click()
    expect(rows).to_have_count(1)
    expect(page.get_by_role("button", name="Put them back")).to_be_focused()
    page.keyboard.press("Enter")
    expect(rows).to_have_count(2)
    page.get_by_role("button", name="Remove all").click()
    page.get_by_role("button", name="Forget them").click()
    page.reload()
    expect(page.locator("#aside")).to_be_hidden()
    expect(first).to_have_value("")


def test_parts_that_do_not_come_are_asked_for_again(page: Page, excused: list[str]) -> None:
    """Once the connection is there by themselves; after a refusal by a button."""
    excused += ["net::ERR_FAILED", "htmx:(sendError|afterRequest)", "503"]
    tries = []

    def fails_twice(route: Route) -> None:
        tries.append(route)
        route.abort() if len(tries) < 3 else route.continue_()

    page.route("**/console/history/rows", fails_twice)
    page.goto("/console/history")
    expect(page.locator("#notice")).to_contain_text("cannot be reached")
    expect(page.locator(".versions tbody a").first).to_be_visible(timeout=20_000)
    expect(page.locator("#notice")).to_be_empty()
    refused = "<p>busy</p>"
    page.route("**/edit/newest", lambda route: route.fulfill(status=503, body=refused))
    page.goto("/console/edit")
    expect(page.locator("#newest")).to_contain_text("This could not be loaded")
    page.unroute("**/edit/newest")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("#newest .empty, #newest table").first).to_be_visible()
    expect(page.locator("#newest")).not_to_contain_text("could not be loaded")
    expect(page.locator("#h-newest")).to_be_focused()


def test_a_search_is_in_the_address_and_folded_fields_open_for_their_errors(page: Page) -> None:
    page.goto("/console/facts")
    page.locator("#search").fill("no such subject")
    expect(page.locator("#rows")).to_contain_text("No fact of head has")
    assert page.url.endswith("/console/facts?search=no+such+subject&version=head&holds=")
    page.goto("/console/ask")
    page.locator("#prompts").fill("Lyon")
    fold = page.get_by_text("Candidates and sampling")
    fold.click()
    page.locator("#max_new_tokens").fill("")
    fold.click()
    page.get_by_role("button", name="Ask").click()
    expect(page.locator("#max_new_tokens")).to_be_focused()


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


def test_a_form_is_as_it_was_after_signing_in_again(
    guarded: tuple[str, Store], chromium: Browser
) -> None:
    """A session can end while somebody types: with the api, with its hours, with its key."""
    url, store = guarded
    scopes = [Scope.READ, Scope.GENERATE, Scope.EDIT]
    context = chromium.new_context(base_url=url)
    page = context.new_page()

    def sign_in(name: str) -> None:
        _, token = store.keys.create(name, scopes)
        page.locator("#key").fill(token)
        page.keyboard.press("Enter")

    page.goto("/console/ask")
    sign_in("ana")
    page.locator("#prompts").fill("\n".join(PROMPTS))
    page.get_by_text("Candidates and sampling").click()
    page.locator("#candidates").fill("Japan")
    page.get_by_label("base", exact=True).uncheck()
    page.locator("#other").fill("v7")
    page.keyboard.press("Enter")
    store.keys.revoke("ana")
    expect(page.locator("#key")).to_be_visible(timeout=10_000)
    sign_in("ana")
    expect(page.locator("#prompts")).to_have_value("\n".join(PROMPTS))
    expect(page.locator("#candidates")).to_have_value("Japan")
    expect(page.locator("#candidates")).to_be_visible()
    chosen = page.locator("[name=version]:checked")
    assert [one.get_attribute("value") for one in chosen.all()] == ["head", "v7"]
    page.goto("/console/evaluations")
    page.get_by_label("Trials of an editor").check()
    page.locator("#n_edits").fill("0 3")
    page.locator("#suite").select_option("atlas-zsre")
    store.keys.revoke("ana")
    expect(page.locator("#key")).to_be_visible(timeout=10_000)
    sign_in("ana")
    expect(page.locator("#n_edits")).to_have_value("0 3")
    expect(page.locator("#suite")).to_have_value("atlas-zsre")
    page.goto("/console/ask")
    expect(page.locator("#prompts")).to_have_value("")
    context.close()
