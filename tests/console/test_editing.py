"""Edit in a real browser: typing, pasting, what is said beside fields, sending, the outcome."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, Route, expect
from support.service.console.pictures import look_at

PROMPT = "{} is a city in the country of"
HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>"
PASTE = """(text) => {
  const data = new DataTransfer();
  data.setData("text/plain", text);
  const about = { clipboardData: data, bubbles: true, cancelable: true };
  const event = new ClipboardEvent("paste", about);
  document.querySelector("#facts textarea").dispatchEvent(event);
}"""

PRESSES_ON = """
const ask = window.fetch;
window.fetch = async (...given) => {
  const answer = await ask(...given);
  const press = () => document.getElementById("edit").requestSubmit();
  if (given[0] === "/console/edit") for (const ms of [1, 5, 10, 20]) setTimeout(press, ms);
  return answer;
};
"""
"""Somebody who presses again as soon as the edit was accepted."""


def write(page: Page, number: int, subject: str, new: str, prompt: str = PROMPT) -> None:
    for name, text in (("Subject", subject), ("Prompt", prompt), ("New answer", new)):
        page.get_by_label(f"{name} of fact {number}", exact=True).fill(text)


def test_facts_are_checked_as_they_are_typed(page: Page) -> None:
    page.goto("/console/edit")
    expect(page.locator("#newest")).not_to_contain_text("Reads them")
    look_at(page, "edit-empty")
    write(page, 1, "Marseille", "Peru", "a city without its name")
    wrong = page.get_by_label("Prompt of fact 1", exact=True)
    expect(wrong).to_have_attribute("aria-invalid", "true", timeout=10_000)
    expect(page.locator("#facts .wrong")).to_contain_text("write {} in place of the subject")
    wrong.fill(PROMPT)
    expect(page.locator("#facts .known q").first).to_have_text("France", timeout=10_000)
    expect(wrong).not_to_have_attribute("aria-invalid", "true")
    expect(page.locator("#plan")).to_contain_text("1 fact with jeep")
    page.get_by_role("button", name="Add a fact").click()
    expect(page.get_by_label("Subject of fact 2", exact=True)).to_be_focused()
    write(page, 2, "Marseille", "Peru")
    expect(page.locator("#facts")).to_contain_text("the same as fact 1", timeout=10_000)
    page.get_by_label("Remove fact 2").click()
    page.evaluate(PASTE, f"Kyoto\t{PROMPT}\tCanada\tJapan\nNice\t{PROMPT}\tKenya\tFrance\n")
    expect(page.locator("#facts tr.fact")).to_have_count(3)
    expect(page.locator("#facts .known q")).to_have_count(3, timeout=10_000)
    page.get_by_label("Tests and tokens of fact 1").click()
    expect(page.locator("#facts .tokens .piece.target").first).to_be_visible()
    page.get_by_label("Rephrasings, one a line").first.fill("People in Marseille live in")
    page.get_by_label("Neighbours that shall keep").first.fill("Paris is a city in the country of")
    page.get_by_text("Editor and preset").click()
    page.get_by_text("Hyper-parameters").click()
    expect(page.locator("#settings input").first).to_be_visible()
    page.get_by_text("Guards", exact=True).click()
    page.locator("#min_efficacy").fill("7")
    expect(page.locator("#min_efficacy")).to_have_attribute("aria-invalid", "true", timeout=10_000)
    look_at(page, "edit")
    page.locator("#min_efficacy").fill("0.5")
    page.reload()
    expect(page.locator("#facts tr.fact")).to_have_count(3)
    expect(page.locator("#min_efficacy")).to_have_value("0.5")


def test_an_edit_is_watched_and_its_outcome_shown(page: Page) -> None:
    page.goto("/console/edit")
    write(page, 1, "Toulouse", "Mexico")
    page.get_by_label("Tests and tokens of fact 1").click()
    page.get_by_label("Rephrasings, one a line").fill("The country that Toulouse belongs to is")
    page.get_by_label("Neighbours that shall keep").fill("Paris is a city in the country of")
    page.get_by_role("button", name="Edit", exact=True).click()
    expect(page.locator("[data-job] progress")).to_be_visible()
    expect(page.locator("#h-end")).to_contain_text("believes it", timeout=120_000)
    expect(page.locator("#edited tbody tr").first).to_contain_text("Mexico")
    page.get_by_text("1 rephrasing, 1 neighbour").click()
    expect(page.locator("#edited")).to_contain_text("kept", timeout=20_000)
    look_at(page, "edit-done")
    page.goto("/console/edit")
    expect(page.locator("#facts textarea").first).to_have_value("")
    expect(page.locator("#newest tbody tr").first).to_contain_text("succeeded")


def test_nothing_is_lost_and_nothing_sent_twice_when_no_answer_comes(
    page: Page, excused: list[str]
) -> None:
    """The first try reaches the service, and its answer is lost."""
    excused.append("net::ERR_FAILED")
    keys = []

    def lose(route: Route) -> None:
        if route.request.method != "POST":
            route.continue_()
            return
        keys.append(route.request.headers["idempotency-key"])
        if len(keys) == 1:
            route.fetch()
            route.abort()
        else:
            route.continue_()

    page.goto("/console/edit")
    write(page, 1, "Bordeaux", "Peru")
    page.route("**/console/edit", lose)
    page.get_by_role("button", name="Edit", exact=True).click()
    expect(page.locator("#notice")).to_contain_text("Nothing is edited twice")
    expect(page.get_by_label("Subject of fact 1", exact=True)).to_have_value("Bordeaux")
    page.get_by_role("button", name="Edit", exact=True).click()
    expect(page.locator("h1")).to_contain_text("Edit ", timeout=20_000)
    expect(page.locator("#h-end")).to_contain_text("believes it", timeout=120_000)
    assert keys[0] == keys[1]
    page.goto("/console/edit")
    expect(page.locator("#newest tbody tr").first).to_be_visible()


@pytest.mark.parametrize(
    "said",
    [
        {"editor": "jeep", "preset": "auto", "hparams": {"n_steps": 3, "low": {"clamp": 2}}},
        {"editor": "auto", "preset": "auto"},
    ],
)
def test_what_was_to_be_chosen_is_to_be_chosen_when_it_is_sent_again(
    page: Page, service: str, said: dict[str, Any]
) -> None:
    fact = {"subject": "Angers", "prompt": PROMPT, "target_new": "Chile"}
    edit = httpx.post(f"{service}/edits", json={"facts": [fact], "activate": False, **said}).json()
    httpx.post(f"{service}/jobs/{edit['id']}/cancel").raise_for_status()
    page.goto(f"/console/edit?again={edit['edit_id']}")
    expect(page.locator("#preset")).to_have_value("auto")
    page.route("**/console/edit", lambda route: route.fulfill(status=422, json={"detail": "kept"}))
    with page.expect_request(
        lambda one: one.method == "POST" and one.url.endswith("/edit")
    ) as sent:
        page.get_by_role("button", name="Edit", exact=True).click()
    body = json.loads(sent.value.post_data or "")
    assert {name: body.get(name) for name in said} == said
    expect(page.locator("#notice")).to_contain_text("Kept.")


def test_an_edit_that_was_accepted_cannot_be_sent_again(page: Page) -> None:
    """While its page is on the way; the key that makes it one edit is used up."""
    sent: list[str] = []
    page.on("request", lambda one: sent.append(one.url) if one.method == "POST" else None)
    page.add_init_script(PRESSES_ON)
    page.goto("/console/edit")
    write(page, 1, "Bordeaux", "Chile")
    page.get_by_role("button", name="Edit", exact=True).click()
    expect(page.locator("#h-end")).to_contain_text("believes it", timeout=120_000)
    assert len([one for one in sent if one.endswith("/console/edit")]) == 1


def test_files_are_taken_and_hostile_texts_stay_texts(page: Page) -> None:
    page.on("dialog", lambda dialog: pytest.fail(f"a script ran: {dialog.message}"))
    page.goto("/console/edit")
    page.get_by_text("Paste a table or take a file").click()
    facts = [
        {"subject": f"{HOSTILE}{i}", "prompt": PROMPT, "target_new": HOSTILE} for i in range(60)
    ]
    content = "\n".join(map(json.dumps, [*facts, {"subject": HOSTILE}])).encode()
    page.locator("#file").set_input_files(
        {"name": "facts.jsonl", "mimeType": "text/plain", "buffer": content}
    )
    page.locator("#take-file").click()
    expect(page.locator("#reading")).to_contain_text("60 facts added")
    expect(page.locator("#unread")).to_contain_text("line 61")
    expect(page.locator("#facts tr.fact")).to_have_count(50)
    expect(page.locator("#pager")).to_contain_text("1 to 50 of 60 rows")
    page.get_by_role("button", name="Later rows").click()
    expect(page.locator("#facts tr.fact")).to_have_count(10)
    expect(page.locator("#facts .known q").first).to_be_visible(timeout=30_000)
    look_at(page, "edit-file")
    assert page.locator("#edit img, #edit script").count() == 0
    page.get_by_role("button", name="Remove all").click()
    page.locator("#pasted").fill("no table")
    page.locator("#take-pasted").click()
    expect(page.locator("#unread")).to_contain_text("it needs subject, prompt and new answer")
    expect(page.locator("#pasted")).to_have_value("no table")
