"""Facts: searched, governed, asked again; the history of one fact; hostile texts."""

import html
import json
import re

import httpx
import pytest
from support.service.console import browser, change_headers, seen, sign_in
from support.service.console.histories import HOSTILE, PROMPT, batch, fact, write_history
from support.service.played_worker.worker import PlayedWorker
from support.service.trees import add_check

from service.contracts.jobs import JobStatus
from service.contracts.schemas.access import Scope
from service.store import Store


@pytest.fixture
def known(shown: httpx.Client, kept: Store) -> httpx.Client:
    """A signed-in browser at a store with a history."""
    if kept.versions.newest_number() == 0:
        write_history(kept)
    sign_in(shown, kept)
    return shown


def test_facts_say_what_governs_and_whether_it_holds(known: httpx.Client) -> None:
    page = known.get("/console/facts")
    assert page.status_code == 200
    text = seen(page)
    assert "Facts of head v3" in text
    for row in (
        "Lyon is a city in the country of Japan France v3 holds after v3",
        "Nice is a city in the country of Spain France v1 does not hold after v3",
    ):
        assert row in text, row
    assert "Italy" not in text, "superseded"
    assert HOSTILE not in page.text


def test_facts_are_searched_in_any_version(known: httpx.Client) -> None:
    part = known.get("/console/facts/rows", params={"search": " LYON ", "version": "good"})
    assert "<html" not in part.text
    assert "Lyon is a city in the country of Italy" in seen(part)
    assert "Nice" not in part.text
    nothing = known.get("/console/facts", params={"search": HOSTILE + "x"})
    assert "Only facts that were edited are found here" in nothing.text
    assert HOSTILE not in nothing.text
    assert html.unescape(re.findall(r'name="search"[^>]* value="([^"]*)"', nothing.text)[0]) == (
        HOSTILE + "x"
    )
    wrong = known.get("/console/facts", params={"version": HOSTILE})
    assert wrong.status_code == 404
    assert 'aria-describedby="version-wrong"' in wrong.text
    assert HOSTILE not in wrong.text
    base = known.get("/console/facts", params={"version": "base"})
    assert "No edit has taught base anything" in base.text
    assert known.get("/console/facts", params={"search": "x" * 300}).status_code == 422


def test_facts_are_listed_by_whether_they_hold(known: httpx.Client) -> None:
    missing = known.get("/console/facts", params={"holds": "false"})
    assert "Nice is a city in the country of Spain" in seen(missing)
    assert "Lyon" not in seen(missing)
    assert '<option value="false" selected>' in missing.text
    held = seen(known.get("/console/facts/rows", params={"holds": "true"}))
    assert "Lyon is a city" in held
    assert "Nice" not in held
    none = known.get("/console/facts/rows", params={"holds": "false", "version": "good"})
    assert "No fact of good is known not to hold" in seen(none)
    assert known.get("/console/facts", params={"holds": "x"}).status_code == 422


def test_pages_of_facts_go_on(known: httpx.Client, kept: Store) -> None:
    tip = batch(kept, "v3", *(fact(f"City {i}", "Japan") for i in range(120)))
    found: list[str] = []
    address: str | None = f"/console/facts?version={tip}&search=city+1&holds=true"
    while address:
        page = known.get(address)
        found += re.findall(r">(City \d+) is a city", page.text)
        more = re.search(r'hx-get="(/console/facts/rows\?after=[^"]+)"', page.text)
        address = html.unescape(more[1]) if more else None
    wanted = [f"City {i}" for i in range(120) if str(i).startswith("1")]
    assert found == wanted[:31]


def test_the_history_of_a_fact(known: httpx.Client) -> None:
    page = known.get("/console/facts/v1/0")
    text = seen(page)
    assert "Lyon is a city in the country of Italy" in text
    assert "governed by v3" in text
    assert "this one is superseded" in text
    story = text[text.index("What became of it") :]
    order = ["asked, said Japan, after v3", "taught Japan in v3", "asked, said Italy, after v1",
             "taught Italy in v1"]  # fmt: skip
    places = [story.index(one) for one in order]
    assert places == sorted(places)
    lost = seen(known.get("/console/facts/v1/1"))
    assert "when last asked does not hold after v3" in lost
    assert "did not say Spain, after v3" in lost
    assert "said Spain, after v1" in lost
    apart = seen(known.get("/console/facts/v2/0"))
    assert "taught Peru in v2" in apart
    assert "taught Italy in v1" in apart
    assert "Head was taught it in another version" in apart
    assert "governed by v3" in apart
    hostile = known.get("/console/facts/v3/1")
    assert hostile.status_code == 200
    assert HOSTILE not in hostile.text
    for path in ("v3/7", "v99/0", "x/0", "v3/x", "v0/0"):
        assert known.get(f"/console/facts/{path}").status_code in (404, 422), path


def test_other_facts_about_the_subject_are_named(known: httpx.Client, kept: Store) -> None:
    about = fact("Lyon", "Chinese").model_copy(update={"prompt": "In {} people speak"})
    tip = batch(kept, "v2", about)
    text = seen(known.get(f"/console/facts/{tip}/0"))
    assert "Head has not got it." in text
    assert "Others about Lyon Lyon is a city in the country of Peru" in text
    assert "Nothing else was taught" in seen(known.get("/console/facts/v1/1"))


def test_who_may_not_generate_is_not_offered_to_ask(known: httpx.Client, kept: Store) -> None:
    assert "/console/facts/ask" in known.get("/console/facts/v1/0").text
    known.post("/console/sign-out")
    sign_in(known, kept, Scope.READ)
    page = known.get("/console/facts/v1/0")
    assert "/console/facts/ask" not in page.text
    refused = known.post("/console/facts/ask", headers=change_headers(page))
    assert refused.status_code == 403


def test_head_is_asked_from_the_page(url: str, worker: PlayedWorker) -> None:
    edit = {"facts": [{"subject": "Lyon", "prompt": PROMPT, "target_new": "Italy"}]}
    with browser(url) as person:
        person.post("/edits", json=edit, headers={"Prefer": "wait=20"})
        page = person.get("/console/facts/v1/0")
        sent = {"version": "head", "prompt": "Lyon is", "candidate": ["Italy", "", "Italy"]}
        answer = person.post("/console/facts/ask", data=sent, headers=change_headers(page))
        assert answer.status_code == 200, answer.text
        assert "v1 says Lyon is" in answer.text
        [asked] = worker.asked
        assert (asked.versions, asked.body["candidates"]) == (["v1"], ["Italy"])
        failed = person.post(
            "/console/facts/ask", data=sent | {"prompt": "fail"}, headers=change_headers(page)
        )
        assert "too much" in failed.text.lower()


def test_a_version_is_asked_all_its_facts_from_the_page(known: httpx.Client, kept: Store) -> None:
    page = known.get("/console/facts", params={"version": "v1"})
    button = "Ask v1 its 2 facts now"
    assert button in seen(page)
    assert page.text.index(button) < page.text.index("<table"), "a list may be long"
    none_found = {"version": "v1", "search": "nothing that was taught"}
    assert button in seen(known.get("/console/facts", params=none_found))
    for version in ("base", "nobody"):
        assert " now" not in seen(known.get("/console/facts", params={"version": version}))
    begun = known.post("/console/facts/check", data={"version": "v1"}, headers=change_headers(page))
    assert "v1 is asked all its facts. waits for its turn" in seen(begun)
    assert begun.headers["HX-Trigger"] == "jeep-changed"
    [job] = [one for one in kept.journal.unfinished() if one.kind.value == "check"]
    assert job.payload["version"] == "v1"
    assert f'data-job="{job.id}"' in begun.text
    again = known.get("/console/facts", params={"version": "v1"})
    assert f'data-job="{job.id}"' in again.text, "loaded again, the page goes on following it"
    assert "Ask v1" not in again.text
    kept.journal.save(job.model_copy(update={"status": JobStatus.CANCELLED}))
    place = {"id": job.payload["check_id"]}
    ended = known.get("/console/facts/check", params=place)
    assert "The check was cancelled." in seen(ended)
    assert "jeep-checked" in ended.headers["HX-Trigger"], "the list is read again"
    assert button in seen(known.get("/console/facts", params={"version": "v1"}))
    done = add_check(kept, "v1", {"v1": [1]}, {"v1": [0]})
    answer = known.get("/console/facts/check", params={"id": done.payload["check_id"]})
    said = "v1 was asked 2 facts: 1 held, 1 lost or never taken"
    assert said in seen(answer)
    assert said in seen(known.get("/console/facts", params={"version": "v1"}))
    assert "was asked" not in seen(known.get("/console/facts", params={"version": "v3"}))
    assert "/console/facts?version=v1&amp;holds=false" in answer.text
    assert f"/console/edit?missing={done.payload['check_id']}" in answer.text
    filled = known.get("/console/edit", params={"missing": done.payload["check_id"]})
    [facts] = re.findall(r'data-facts="([^"]*)"', filled.text)
    assert [one["subject"] for one in json.loads(html.unescape(facts))] == ["Lyon"]
    some = add_check(kept, "v1", {"v1": [1]}, {})
    answer = known.get("/console/facts/check", params={"id": some.payload["check_id"]})
    assert "v1 was asked 1 fact: 1 held, none lost." in seen(answer)
    assert "holds=false" not in answer.text
    assert "/console/edit" not in answer.text
    assert known.get("/console/facts/check", params={"id": "check_x"}).status_code == 404
    rows = seen(known.get("/console/facts/rows", params={"version": "v1"}))
    assert "does not hold by a check of v1" in rows
    story = seen(known.get("/console/facts/v1/0"))
    assert "did not say Italy, by a check of v1" in story


def test_facts_that_a_check_missed_are_filled_in_for_those_who_may_read_them(
    known: httpx.Client, kept: Store
) -> None:
    check = add_check(kept, "v1", {}, {"v1": [0]}).payload["check_id"]
    known.post("/console/sign-out")
    sign_in(known, kept, Scope.EDIT)
    refused = known.get("/console/edit", params={"missing": check})
    assert refused.status_code == 403
    assert "Lyon" not in refused.text
