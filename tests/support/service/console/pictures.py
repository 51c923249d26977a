"""Looking at pages of the console: pictures in every size and theme, and what axe finds in each."""

from __future__ import annotations

from typing import Any, Literal

from playwright.sync_api import Page

from support import ROOT

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


def look_at(page: Page, name: str, whole: bool = True) -> None:
    """Take pictures in every size and theme; each must be free of serious findings.

    ``whole``: of all of the page; else of what is seen of it, as below a dialog.
    """
    PICTURES.mkdir(parents=True, exist_ok=True)
    for size, (width, height) in SIZES.items():
        page.set_viewport_size({"width": width, "height": height})
        for theme in THEMES:
            page.emulate_media(color_scheme=theme)
            page.screenshot(path=PICTURES / f"{name}-{size}-{theme}.png", full_page=whole)
            assert findings(page) == [], f"{name} {size} {theme}"
        wide = page.evaluate("() => document.documentElement.scrollWidth")
        assert wide <= width, f"{name} is {wide} px wide on {width}"
