"""Every page of the console in a real browser: accessibility, pictures, no errors, keyboard.

``make console-test`` runs this; the pictures are in ``build/console``.
"""

from __future__ import annotations

from typing import Any, Literal

import pytest
from playwright.sync_api import Page, expect
from support import ROOT

PAGES = ("state",)
PICTURES = ROOT / "build" / "console"
SIZES = {"desktop": (1280, 860), "phone": (390, 844)}
AXE = PICTURES / "axe" / "package" / "axe.min.js"
THEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
SERIOUS = ("serious", "critical")


def findings(page: Page) -> list[str]:
    """Findings of axe that are serious or worse."""
    page.evaluate(AXE.read_text())
    found: dict[str, Any] = page.evaluate("() => axe.run()")
    return [
        f"{one['id']}: {one['help']}: {[node['html'] for node in one['nodes']][:3]}"
        for one in found["violations"]
        if one["impact"] in SERIOUS
    ]


def look_at(page: Page, name: str) -> None:
    """Take pictures in every size and theme; each must be free of serious findings."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    for size, (width, height) in SIZES.items():
        page.set_viewport_size({"width": width, "height": height})
        for theme in THEMES:
            page.emulate_media(color_scheme=theme)
            page.screenshot(path=PICTURES / f"{name}-{size}-{theme}.png", full_page=True)
            assert findings(page) == [], f"{name} {size} {theme}"
        wide = page.evaluate("() => document.documentElement.scrollWidth")
        assert wide <= width, f"{name} is {wide} px wide on {width}"


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


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_accessible_in_every_size_and_theme(name: str, page: Page) -> None:
    page.goto(f"/console/{name}")
    expect(page.locator("h1")).to_be_visible()
    expect(page.locator(".status a")).to_be_visible()
    look_at(page, name)


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
