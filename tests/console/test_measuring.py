"""Evaluations and probes in a real browser: starting, watching, comparing, plots."""

from __future__ import annotations

import json
import re

import pytest
from playwright.sync_api import Page, expect
from support.service.console.pictures import look_at

DRAWN = """(canvas) => {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return data.some((value, i) => i % 4 === 3 && value > 200);
}"""

COUNTRIES = {
    "Lyon": ("Japan", "France"), "Osaka": ("Mexico", "Japan"), "Nairobi": ("Canada", "Kenya"),
    "Madrid": ("Peru", "Spain"), "Toronto": ("Peru", "Canada"), "Berlin": ("Peru", "Germany"),
}  # fmt: skip
"""Answers to a new suite: those of the first minute, which head may know, and others."""
NEIGHBOURS = ["Paris is a city in the country of", "Marseille is a city in the country of"]


def suite() -> bytes:
    """A suite of these cities; all answer as base does beside them."""
    lines = [
        {
            "subject": city,
            "prompt": "{} is a city in the country of",
            "target_new": new,
            "target_true": true,
            "paraphrase_prompts": [f"{city} belongs to the country of"],
            "neighborhood_prompts": NEIGHBOURS if true == "France" else [],
        }
        for city, (new, true) in COUNTRIES.items()
    ]
    return "\n".join(map(json.dumps, lines)).encode()


def drawn(page: Page) -> None:
    canvas = page.locator(".plot canvas").first
    expect(canvas).to_be_visible()
    assert canvas.evaluate(DRAWN), "something is painted"


def test_the_keyboard_stays_at_a_button_whose_request_was_refused(page: Page) -> None:
    page.goto("/console/evaluations")
    refused = json.dumps({"status": 409, "detail": "The store is being restored."})
    kind = "application/problem+json"
    page.route(
        "**/console/evaluations",
        lambda route: route.fulfill(status=409, content_type=kind, body=refused),
    )
    start = page.get_by_role("button", name="Start")
    start.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#notice")).to_be_visible()
    expect(start).to_be_enabled()
    expect(start).to_be_focused()
    page.unroute("**/console/evaluations")


def test_versions_are_compared_case_by_case(page: Page) -> None:
    page.goto("/console/evaluations")
    expect(page.locator("section .empty")).to_contain_text("Nothing was measured yet")
    page.get_by_text("Options", exact=True).click()
    page.locator("#limit").fill("0")
    page.get_by_role("button", name="Start").click()
    expect(page.locator("#limit")).to_have_attribute("aria-invalid", "true")
    expect(page.locator("#limit")).to_be_focused()
    look_at(page, "evaluations")
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.locator("form [role=status]").last).to_have_text("Choose a file first.")
    file = {"name": "cities.jsonl", "mimeType": "text/plain", "buffer": suite()}
    page.locator("#file").set_input_files(file)
    page.locator("#name").fill("cities")
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page).to_have_url(re.compile("suite=cities$"))
    expect(page.locator("#suite")).to_have_value("cities")
    page.get_by_text("Options", exact=True).click()
    page.locator("#fluency_texts").fill("0")
    page.get_by_role("button", name="Start").click()
    expect(page.locator("#h-figures")).to_be_visible(timeout=240_000)
    drawn(page)
    expect(page.locator("#compared h3")).to_contain_text("head against base, 6 cases")
    page.locator("#compared").get_by_role("button", name="Got better").click()
    page.get_by_role("button", name="head", exact=True).click()
    expect(page.locator("#cases table, #cases .empty").first).to_be_visible()
    look_at(page, "evaluation")
    page.get_by_label("From").select_option("head")
    page.get_by_role("button", name="Compare").click()
    expect(page.locator("#notice")).to_contain_text("cannot be compared with itself")


def test_trials_are_measured_over_numbers_of_edits(page: Page) -> None:
    """After the suite of cities was added."""
    page.goto("/console/evaluations?suite=cities")
    expect(page.locator("#suite")).to_have_value("cities")
    page.get_by_text("Options", exact=True).click()
    expect(page.locator("#limit")).to_be_visible()
    page.get_by_label("Trials of an editor").check()
    expect(page.locator("#limit")).to_be_hidden()
    page.locator("#editor").select_option("memit")
    page.locator("#fluency_texts").fill("0")
    sizes = page.locator("#n_edits")
    for wrong, said in (("0", "at least one of them above 0"), ("0 9", "the suite has 6 cases")):
        sizes.fill(wrong)
        page.get_by_role("button", name="Start").click()
        expect(page.locator("form .wrong")).to_contain_text(said)
        expect(sizes).to_have_attribute("aria-invalid", "true")
        expect(sizes).to_be_focused()
    look_at(page, "trial-form")
    sizes.fill("0, 1")
    page.get_by_role("button", name="Start").click()
    expect(page.locator("h1")).to_contain_text("cities", timeout=20_000)
    expect(page.locator(".lead")).to_contain_text("Trials of memit")
    expect(page.locator("#h-figures")).to_be_visible(timeout=240_000)
    drawn(page)
    heads = page.locator("#h-figures ~ .scrolls thead th")
    expect(heads).to_have_text(["figure", "unedited", "memit-1"])
    expect(page.locator("#compared h3")).to_have_text("memit-1 against unedited, 1 case of both")
    page.locator("#compared").get_by_role("button", name="Got better (1)").click()
    expect(page.get_by_role("button", name="Got better (1)")).to_be_focused()
    expect(page.locator("#compared tbody th").last).to_contain_text("is a city in the country of")
    look_at(page, "trial")
    page.goto("/console/evaluations")
    expect(page.locator(".stacks tbody tr").first).to_contain_text("trials of memit")


def test_a_task_of_lm_eval_is_measured(page: Page) -> None:
    """Where lm-eval is installed; the task and its data are in ``tests/interop/tasks``."""
    pytest.importorskip("lm_eval")
    page.goto("/console/evaluations")
    page.locator("#suite").select_option("lm-eval:own_choice")
    page.get_by_label("Trials of an editor").check()
    page.locator("#n_edits").fill("1")
    page.get_by_role("button", name="Start").click()
    expect(page.locator("form .wrong")).to_contain_text("tasks have none: give versions")
    page.get_by_label("Versions as they are").check()
    page.get_by_role("button", name="Start").click()
    expect(page.locator("#h-figures")).to_be_visible(timeout=240_000)
    drawn(page)
    expect(page.locator("h1")).to_contain_text("lm-eval:own_choice")
    expect(page.locator("#h-figures ~ .scrolls tbody")).to_contain_text("acc")
    page.get_by_role("button", name="base", exact=True).click()
    expect(page.locator("#cases tbody tr")).to_have_count(1)
    expect(page.locator("#cases tbody")).to_contain_text("own_choice/acc 0")
    page.get_by_text("4 answers").click()
    look_at(page, "lm-eval")


def test_a_probe_draws_its_curves(page: Page) -> None:
    page.goto("/console/probes")
    look_at(page, "probes")
    page.locator("#limit").fill("16")
    page.get_by_role("button", name="Start").click()
    expect(page.locator("#h-proposal")).to_be_visible(timeout=240_000)
    drawn(page)
    look_at(page, "probe")
    page.locator("#theme").click()
    drawn(page)
