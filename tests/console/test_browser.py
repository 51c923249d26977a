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
