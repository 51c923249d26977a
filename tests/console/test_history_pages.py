"""History and Facts in a real browser: a rollback, a name, a comparison, an export, a search."""

from __future__ import annotations

import re

import httpx
import pytest
from playwright.sync_api import Page, expect
from support.service.console.pictures import look_at

PROMPT = "{} is a city in the country of"
WAIT = {"Prefer": "wait=200"}
SOON_MS = 120_000


def edit(service: str, *facts: tuple[str, str], **options: object) -> str:
    """The version of an edit that has ended."""
    records = [{"subject": s, "prompt": PROMPT, "target_new": t} for s, t in facts]
    body = {"facts": records, **options}
    answer = httpx.post(f"{service}/edits", json=body, headers=WAIT, timeout=220)
    assert answer.json()["status"] == "succeeded", answer.text
    return str(answer.json()["result"]["version"])


@pytest.fixture(scope="module")
def past(service: str) -> dict[str, str]:
    """Versions: two on head's line, one that was rolled back between them, and a staged one."""
    begin = httpx.get(f"{service}/snapshots/head").json()["id"]
    first = edit(service, ("Dijon", "Japan"), ("Rennes", "Chile"))
    undone = edit(service, ("Grenoble", "Peru"))
    httpx.post(f"{service}/rollback/{first}", timeout=60).raise_for_status()
    warned = {"min_efficacy": 0.5, "max_drift": 5.0}
    second = edit(service, ("Dijon", "Canada"), ("Toulon", "Kenya"), guards=warned)
    staged = edit(service, ("Metz", "Egypt"), activate=False)
    name = {"name": "before-canada", "version": first}
    httpx.post(f"{service}/snapshots", json=name).raise_for_status()
    return {
        "begin": begin, "first": first, "undone": undone, "second": second, "staged": staged,
    }  # fmt: skip


def test_the_history_is_a_line_with_branches(page: Page, past: dict[str, str]) -> None:
    page.goto("/console/history")
    rows = page.locator(".versions tbody tr")
    expect(rows.first).to_contain_text(past["staged"])
    expect(page.locator("circle.head")).to_have_count(1)
    expect(rows.filter(has_text="before-canada")).to_contain_text("Dijon → Japan, Rennes → Chile")
    look_at(page, "history")
    page.locator("#ref").fill("before-canada")
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_contain_text(past["first"])


def test_a_version_says_everything_about_itself(page: Page, past: dict[str, str]) -> None:
    page.goto(f"/console/history/versions/{past['second']}")
    expect(page.get_by_role("heading", name="Guards")).to_be_visible()
    expect(page.locator("#exports .empty")).to_be_visible()
    page.get_by_text("Hyper-parameters").click()
    look_at(page, "version")


def test_a_dialog_tells_the_consequences_and_the_keyboard_finds_back(
    page: Page, past: dict[str, str]
) -> None:
    page.goto(f"/console/history/versions/{past['undone']}")
    opener = page.get_by_role("button", name="Make it head")
    opener.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text(f"Head goes from {past['second']} to {past['undone']}")
    expect(dialog).to_contain_text("“Dijon is a city in the country of” Canada → Japan")
    look_at(page, "roll-back", whole=False)
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(opener).to_be_focused()
    page.keyboard.press("Enter")
    page.locator("#why").fill("to look at it")
    dialog.get_by_role("button", name="Make it head").click()
    expect(dialog.get_by_role("heading")).to_have_text(f"Head is {past['undone']}")
    expect(dialog.get_by_role("heading")).to_be_focused()
    dialog.get_by_role("button", name="Close").click()
    expect(page.locator("h1 .state")).to_have_text("head")
    expect(page.locator(".status")).to_contain_text(past["undone"])
    page.goto(f"/console/history/versions/{past['second']}")
    page.get_by_role("button", name="Make it head").click()
    dialog.get_by_role("button", name="Make it head").click()
    expect(dialog.get_by_role("heading")).to_have_text(f"Head is {past['second']}")


def test_what_is_refused_is_said_at_its_field_and_what_was_typed_stays(
    page: Page, past: dict[str, str], excused: list[str]
) -> None:
    excused += ["ERR_INTERNET_DISCONNECTED", "^htmx:(sendError|afterRequest)"]
    page.goto(f"/console/history/versions/{past['second']}")
    page.get_by_role("button", name="Name", exact=True).click()
    name = page.get_by_role("dialog").get_by_label("Name")
    expect(name).to_be_focused()
    name.fill("v77")
    page.keyboard.press("Enter")
    expect(page.locator("#name-wrong")).to_be_visible()
    expect(name).to_have_value("v77")
    expect(name).to_be_focused()
    look_at(page, "name-refused", whole=False)
    page.context.set_offline(True)
    name.fill("canada")
    page.keyboard.press("Enter")
    expect(page.locator("dialog [data-notice]")).to_contain_text("cannot be reached")
    expect(name).to_have_value("canada")
    page.context.set_offline(False)
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog").get_by_role("heading")).to_contain_text("canada is")
    page.get_by_role("button", name="Close").click()
    expect(page.locator("h1 .tag")).to_have_text("canada")


def test_two_versions_are_compared_and_drift_is_measured(
    page: Page, past: dict[str, str], excused: list[str]
) -> None:
    excused.append("status of 404")
    page.goto(f"/console/history/compare?a={past['undone']}&b={past['second']}")
    expect(page.locator("#h-facts")).to_contain_text(past["undone"])
    page.get_by_role("button", name="Measure the drift").click()
    expect(page.locator("#drift table")).to_be_visible(timeout=SOON_MS)
    look_at(page, "compare")
    page.locator("#a").fill("nothing")
    page.keyboard.press("Enter")
    expect(page.locator("#a-wrong")).to_be_visible()
    look_at(page, "compare-refused")


def test_a_version_is_exported_and_its_files_downloaded(page: Page, past: dict[str, str]) -> None:
    page.goto(f"/console/history/versions/{past['second']}")
    page.get_by_role("button", name="Export").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("merged").check()
    expect(dialog.get_by_text("Options of merged")).to_be_visible()
    expect(dialog.get_by_text("Options of peft")).to_be_hidden()
    dialog.get_by_label("peft:").check()
    look_at(page, "export", whole=False)
    dialog.get_by_role("button", name="Export").click()
    expect(dialog.get_by_text("facts hold in what was written")).to_be_visible(timeout=SOON_MS)
    look_at(page, "exported", whole=False)
    with page.expect_download() as download:
        dialog.get_by_role("link", name="adapter_config.json").click()
    assert "peft_type" in download.value.path().read_text()
    dialog.get_by_role("button", name="Close").click()
    expect(page.locator("#exports")).to_contain_text("succeeded")


def test_a_batch_is_taken_out(page: Page, past: dict[str, str]) -> None:
    """The last of these tests that moves head."""
    page.goto(f"/console/history/versions/{past['first']}")
    page.get_by_role("button", name="Take the batch out").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("1 later batch is edited again")
    look_at(page, "revert", whole=False)
    dialog.get_by_role("button", name="Take it out").click()
    expect(dialog.get_by_role("heading")).to_contain_text("Head is v", timeout=SOON_MS)
    dialog.get_by_role("button", name="Close").click()
    page.goto("/console/history")
    expect(page.locator(".versions tbody")).to_contain_text("a revert took out an earlier batch")


def test_facts_are_searched_and_one_tells_its_history(page: Page, past: dict[str, str]) -> None:
    """After the revert."""
    page.goto("/console/facts?version=before-canada")
    rows = page.locator("#rows tr")
    expect(page.locator("#rows")).to_contain_text("Rennes")
    page.locator("#search").press_sequentially("dijon")
    expect(rows).to_have_count(1)
    expect(rows).to_contain_text("Japan")
    page.locator("#search").fill("<b>nobody</b>")
    expect(page.locator("#rows")).to_contain_text("No fact of before-canada has “<b>nobody</b>”")
    page.goto("/console/facts")
    expect(page.locator("#rows")).to_contain_text("Toulon")
    look_at(page, "facts")
    page.goto(f"/console/facts/{past['first']}/0")
    expect(page.locator(".story")).to_contain_text("taught Japan")
    page.goto(f"/console/facts/{past['second']}/0")
    page.get_by_role("button", name=re.compile("Ask .* now")).click()
    expect(page.locator("#answer")).to_contain_text("says", timeout=30_000)
    look_at(page, "fact")


def test_a_version_is_asked_all_its_facts(page: Page, service: str) -> None:
    """Two of them never took, in a version that is staged."""
    hasty = edit(
        service, ("Nancy", "Egypt"), ("Brest", "Peru"), hparams={"n_steps": 1}, activate=False
    )
    page.goto(f"/console/facts?version={hasty}")
    expect(page.locator("#rows")).to_contain_text(f"after {hasty}")
    page.get_by_role("button", name=re.compile(rf"Ask {hasty} its \d+ facts now")).click()
    told = page.locator("#check")
    expect(told.locator("progress").or_(told.get_by_role("link"))).to_be_visible()
    expect(told).to_contain_text("2 lost or never taken", timeout=SOON_MS)
    expect(page.locator("#rows")).to_contain_text(f"by a check of {hasty}")
    expect(page.locator("#said")).to_contain_text("lost or never taken")
    page.reload()
    expect(told).to_contain_text("2 lost or never taken")
    look_at(page, "facts-checked")
    told.get_by_role("link", name="Teach those again").click()
    expect(page.get_by_label("Subject of fact 2", exact=True)).to_have_value("Brest")
