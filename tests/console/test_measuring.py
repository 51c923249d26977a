"""Evaluations and probes in a real browser: starting, watching, comparing, plots."""

from __future__ import annotations

from playwright.sync_api import Page, expect
from support.service.console.pictures import look_at

DRAWN = """(canvas) => {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return data.some((value, i) => i % 4 === 3 && value > 200);
}"""


def drawn(page: Page) -> None:
    canvas = page.locator(".plot canvas").first
    expect(canvas).to_be_visible()
    assert canvas.evaluate(DRAWN), "something is painted"


def test_versions_are_compared_case_by_case(page: Page) -> None:
    page.goto("/console/evaluations")
    expect(page.locator("section .empty")).to_contain_text("Nothing was measured yet")
    page.get_by_text("Options", exact=True).click()
    page.locator("#limit").fill("0")
    page.get_by_role("button", name="Start").click()
    expect(page.locator("#limit")).to_have_attribute("aria-invalid", "true")
    expect(page.locator("#limit")).to_be_focused()
    look_at(page, "evaluations")
    page.locator("#limit").fill("12")
    page.locator("#fluency_texts").fill("0")
    page.get_by_role("button", name="Start").click()
    expect(page.locator("#h-figures")).to_be_visible(timeout=240_000)
    drawn(page)
    expect(page.locator("#compared h3")).to_contain_text("head against base, 12 cases")
    page.locator("#compared").get_by_role("button", name="Broke").click()
    page.get_by_role("button", name="head", exact=True).click()
    expect(page.locator("#cases table, #cases .empty").first).to_be_visible()
    look_at(page, "evaluation")
    page.get_by_label("From").select_option("head")
    page.get_by_role("button", name="Compare").click()
    expect(page.locator("#notice")).to_contain_text("cannot be compared with itself")


def test_a_probe_draws_its_curves(page: Page) -> None:
    page.goto("/console/probes")
    look_at(page, "probes")
    page.locator("#limit").fill("16")
    page.get_by_role("button", name="Start").click()
    expect(page.locator("#h-proposal")).to_be_visible(timeout=240_000)
    drawn(page)
    page.locator("#theme").click()
    drawn(page)
    look_at(page, "probe")
