"""Every page of the console in a real browser: accessibility, pictures, no errors, keyboard.

``make console-test`` runs this; the pictures are in ``build/console``.
"""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect
from support.service.console.pictures import look_at

PAGES = ("state", "history", "facts", "history/audit")


def test_the_first_minute(page: Page) -> None:
    page.goto("/")
    assert page.url.endswith("/console/start")
    expect(page.locator("#first tbody tr")).to_have_count(3)
    look_at(page, "start")
    page.get_by_role("button", name="Teach it these three").click()
    expect(page.locator("#first h2")).to_have_text("v1 believes it", timeout=120_000)
    for country in ("Japan", "Mexico", "Canada"):
        expect(page.locator("#first tbody")).to_contain_text(country)
    look_at(page, "start-done")
    page.get_by_role("link", name="Ask it in your words").click()
    expect(page.locator("#prompts")).to_have_value("Lyon is a city in the country of")


def test_answers_stand_side_by_side_and_say_why(page: Page) -> None:
    """After the first minute: v1 is head."""
    page.goto("/console/ask")
    look_at(page, "ask-empty")
    page.locator("#prompts").fill("Lyon is a city in the country of\nMarseille belongs to the")
    page.get_by_text("Candidates and sampling").click()
    page.locator("#candidates").fill("Japan\nFrance\nItaly")
    page.locator("#other").fill("v1")
    page.locator("#other").press("Enter")
    page.locator("#prompts").press("Control+Enter")
    answers = page.locator("article.answer")
    expect(answers).to_have_count(6)
    expect(page.locator("#halt")).to_be_hidden(timeout=30_000)
    expect(answers.nth(0).locator(".text")).to_contain_text("France")
    expect(answers.nth(1).locator(".text")).to_contain_text("Japan")
    expect(answers.nth(1).locator("th.first").first).to_have_text("Japan")
    expect(page.locator("#said")).to_contain_text("head:")
    tokens = answers.nth(1).get_by_role("listbox")
    tokens.focus()
    page.keyboard.press("ArrowRight")
    expect(answers.nth(1).locator(".detail caption")).to_contain_text("Token 2 of")
    page.keyboard.press("Home")
    expect(answers.nth(1).locator(".detail caption")).to_contain_text("Token 1 of")
    answers.nth(0).get_by_role("option").first.hover()
    expect(answers.nth(0).locator(".detail")).to_contain_text("Fran")
    expect(answers.nth(0).get_by_text("Why?")).to_have_count(0)
    answers.nth(1).get_by_text("Why?").click()
    answers.nth(1).get_by_role("button", name="Explain").click()
    expect(page.locator(".found").first).to_contain_text("Lyon → Japan")
    page.get_by_text("Candidates and sampling").click()
    look_at(page, "ask")


def test_texts_of_users_and_models_stay_texts(page: Page) -> None:
    hostile = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    page.on("dialog", lambda dialog: pytest.fail(f"a script ran: {dialog.message}"))
    page.goto("/console/ask")
    page.locator("#prompts").fill(f"{hostile} Lyon")
    page.locator("#other").fill(hostile)
    page.locator("#other").press("Enter")
    page.get_by_text("Candidates and sampling").click()
    page.locator("#candidates").fill(hostile)
    page.get_by_role("button", name="Ask").click()
    expect(page.locator("article.answer .problem")).to_have_count(1, timeout=30_000)
    expect(page.locator("article.answer .candidates")).to_have_count(2, timeout=30_000)
    expect(page.locator("#answers h2")).to_have_text(f"{hostile} Lyon")
    assert page.locator("#answers img, #answers script, #versions img").count() == 0


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_accessible_in_every_size_and_theme(name: str, page: Page) -> None:
    page.goto(f"/console/{name}")
    expect(page.locator("h1")).to_be_visible()
    expect(page.locator(".status a")).to_be_visible()
    look_at(page, name.replace("/", "-"))


def test_the_keyboard_skips_to_the_content_and_the_theme_is_kept(page: Page) -> None:
    page.goto("/")
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.keyboard.press("Enter")
    assert page.evaluate("() => location.hash") == "#main"
    theme = page.locator("#theme")
    theme.focus()
    for expected in ("light", "dark"):
        page.keyboard.press("Enter")
        expect(theme).to_have_text(f"Theme: {expected}")
    page.reload()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
