"""The page "Edit": what is read, checked, sent once, and what is shown of an edit."""

import html
import json
import re
import time
from collections.abc import Iterator
from functools import partial

import httpx
import pytest
from support.service.builders import add_version
from support.service.bundled_model import publish
from support.service.console import browser, change_headers, read_as_text, sign_in
from support.service.played_worker.worker import PlayedWorker

from jeep_core.suites import InvalidSuite
from service.api.console.pages.editing import outcome
from service.api.console.pages.editing.form import flat
from service.api.console.pages.editing.tables import read_facts
from service.contracts.jobs import Job, JobError, JobStatus, now
from service.contracts.schemas import Answer, EditResult, FactRecord
from service.contracts.schemas.access import Scope
from service.contracts.schemas.effects.earlier import EarlierFact, EarlierFacts
from service.contracts.schemas.effects.guards import GuardFigures
from service.queue import connect
from service.settings import Settings
from service.store import Store
from service.store.index import facts as indexed
from service.store.index import listing
from service.store.index.database import NoIndex

HOSTILE = "<img src=x onerror=alert(1)>\"'&{{7*7}}"
PROMPT = "{} is a city in the country of"
LYON = {"subject": "Lyon", "prompt": PROMPT, "target_new": "Japan"}
RELATIONS = {"city_country": PROMPT}
JSON = {"Accept": "application/json"}


@pytest.fixture
def person(url: str) -> Iterator[httpx.Client]:
    """A browser at a console without keys."""
    with browser(url) as made:
        yield made


def scripts(person: httpx.Client) -> dict[str, str]:
    """The headers that a script of the page sends."""
    token = change_headers(person.get("/console/edit"))
    return {name: value for name, value in token.items() if name != "HX-Request"} | JSON


def ended(person: httpx.Client, edit_id: str) -> httpx.Response:
    deadline = time.monotonic() + 10
    while "data-job" in (answer := person.get(f"/console/edit/{edit_id}/outcome")).text:
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.02)
    return answer


def finished(store: Store, edit_id: str, **changes: object) -> Job:
    """An edit's job with another outcome than it had."""
    job = store.journal.read("job_" + edit_id.removeprefix("edit_"))
    result = EditResult.model_validate(job.result).model_copy(update=changes)
    changed = job.model_copy(update={"result": result.model_dump(mode="json")})
    store.journal.save(changed)
    return changed


# ---------------------------------------------------------------- reading


def read(text: str | bytes, format: str | None = None, most: int = 100) -> tuple[list[dict], list]:
    body = text.encode() if isinstance(text, str) else text
    found = read_facts(body, format, most, RELATIONS, None)
    return found.facts, found.problems


TRUE = {**LYON, "target_true": "France"}


@pytest.mark.parametrize(
    "text",
    [
        f"Lyon\t{PROMPT}\tJapan\tFrance\n",
        "Lyon\tcity_country\tJapan\tFrance\t\n\n\t\t\n",
        "Lyon\tLyon is a city in the country of\tJapan\tFrance",
        f"\ufeffTrue answer;Subject;New answer;PROMPT\r\nFrance;Lyon;Japan;{PROMPT}\r\n",
        f'subject,target_true,prompt,target_new\n"Lyon",France,"{PROMPT}",Japan\n',
        "Lyon,is a city in the country of,Japan,France",
        json.dumps(TRUE),
        json.dumps([TRUE]),
        json.dumps({"facts": [TRUE]}),
        '{"subject": "Lyon", "relation": "city_country", "object": "Japan", '
        '"target_true": "France"}',
    ],
)
def test_facts_are_read_from_tables_and_json(text: str) -> None:
    assert read(text) == ([TRUE], [])


def test_tests_of_facts_come_with_them() -> None:
    table = f'subject\tprompt\tnew answer\tRephrasings\nLyon\t{PROMPT}\tJapan\t"One\nTwo"\n'
    assert read(table) == ([{**LYON, "paraphrase_prompts": ["One", "Two"]}], [])
    record = {
        "case_id": 1,
        "requested_rewrite": {
            "prompt": PROMPT, "subject": "Lyon",
            "target_new": {"str": "Japan"}, "target_true": {"str": "France"},
        },
        "paraphrase_prompts": ["One"], "neighborhood_prompts": ["Paris is in"],
    }  # fmt: skip
    lists = {"paraphrase_prompts": ["One"], "neighborhood_prompts": ["Paris is in"]}
    assert read(json.dumps([record]))[0] == [{**TRUE, **lists}]
    assert read(json.dumps([record]), "counterfact")[0] == [{**TRUE, **lists}]
    call = {"prompts": ["Lyon is in"], "subject": ["Lyon"], "target_new": ["Japan"]}
    assert read(json.dumps(call))[0] == [{**LYON, "prompt": "{} is in"}]


def test_what_is_not_read_is_said_with_its_line() -> None:
    facts, problems = read(f"Lyon\t{PROMPT}\tJapan\nOsaka\tx\nRome\t{PROMPT}\t \n")
    assert facts == [LYON]
    assert [one.partition(":")[0] for one in problems] == ["line 2", "line 3"]
    assert "it needs subject, prompt and new answer" in problems[0]
    assert "the target is empty" in problems[1]
    facts, problems = read(f"subject,prompt,new answer,population\nLyon,{PROMPT},Japan,5\n")
    assert (facts, problems) == ([LYON], ["not read: population"])
    facts, problems = read("".join(f"C{i}\t{PROMPT}\tJapan\n" for i in range(5)), most=2)
    assert [fact["subject"] for fact in facts] == ["C0", "C1"]
    assert problems == ["only the first 2 are taken, as many as one edit may have (JEEP_MAX_FACTS)"]
    assert len(read(json.dumps([1, LYON]))[1]) == 1


@pytest.mark.parametrize("text", [b"", b" \n", b"\xff\xfe", b"[", b"[]"])
def test_what_cannot_be_read_at_all_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidSuite):
        read(text)


def test_a_pasted_text_becomes_facts_or_a_problem(person: httpx.Client, model: Store) -> None:
    headers = scripts(person)
    table = f"Lyon\t{PROMPT}\tJapan\nbad\n"
    found = person.post("/console/edit/read", content=table, headers=headers)
    assert (found.status_code, found.json()["facts"]) == (200, [LYON])
    assert (found.json()["records"], found.json()["lost"]) == (2, 1)
    none = person.post("/console/edit/read", content="bad\n", headers=headers)
    assert (none.status_code, none.json()["code"]) == (422, "invalid_facts")
    assert "no record has a fact: line 1" in none.json()["detail"]
    wrong = person.post("/console/edit/read?format=x", content=table, headers=headers)
    assert wrong.status_code == 422
    assert person.post("/console/edit/read", content=table).status_code == 403
    assert model.journal.count_open() == 0


# ---------------------------------------------------------------- the live check


def check(person: httpx.Client, *facts: object, query: str = "", **options: object) -> dict:
    body = {"facts": list(facts), **options}
    answer = person.post(f"/console/edit/check{query}", json=body, headers=scripts(person))
    assert answer.status_code == 200, answer.text
    found: dict = answer.json()
    return found


def test_the_check_says_tokens_and_what_facts_meet(
    person: httpx.Client, worker: PlayedWorker
) -> None:
    store = worker.store
    other = {**LYON, "prompt": "{} lies on", "target_new": "Mars"}
    taught = [FactRecord(**one) for one in (LYON, other)]
    version = add_version(store, "v0", editor="jeep", edit_id="edit_x", facts=taught)
    store.head.move(version, expected="v0", job_id=None, fence=worker.lease.fence, who="t", why="")
    found = check(person, {**LYON, "target_new": "Peru"}, {**LYON, "subject": "Osaka"},
                  {**LYON, "subject": "Osaka"})  # fmt: skip
    assert found["errors"] == []
    first, second = found["facts"]
    assert first["asked"] == "Lyon is a city in the country of"
    assert first["target_tokens"] == first["tokens"][first["prediction"] + 1 :]
    same, beside = first["conflicts"]
    assert (same["same"], same["version"], same["target_new"]) == (True, version, "Japan")
    assert (beside["same"], beside["prompt"]) == (False, "Lyon lies on")
    assert second["conflicts"] == []
    assert found["duplicates"] == [{"index": 2, "kept": 1}]
    assert found["replaces"] == 1
    assert found["about"][0].startswith("2 facts with jeep, preset ")
    assert (same["known"], found["known"]) == (False, 0)
    again = check(person, LYON, other)
    assert [one["known"] for one in again["facts"][0]["conflicts"]] == [True, False]
    assert (again["replaces"], again["known"]) == (0, 2)
    only = check(person, LYON, {**LYON, "subject": "Osaka"}, query="?first=1&count=1")
    assert [one["index"] for one in only["facts"]] == [1]
    assert store.journal.count_open() == 0


def test_the_check_points_to_what_is_wrong(person: httpx.Client, model: Store) -> None:
    wrong = {**LYON, "prompt": "no subject"}
    found = check(person, LYON, wrong, hparams={"low": {"clamp": -1}}, snapshot_name="head")
    pointers = {error["pointer"] for error in found["errors"]}
    assert {"/facts/1/prompt", "/hparams/low/clamp", "/snapshot_name"} <= pointers
    assert found["facts"] == []
    model.names.give("good", "v0")
    taken = check(person, LYON, snapshot_name="good")
    assert [one["code"] for one in taken["obstacles"]] == ["name_taken"]
    assert person.post(
        "/console/edit/check", json=[1], headers=scripts(person)
    ).status_code == 422  # fmt: skip


def test_what_head_says_now(person: httpx.Client, worker: PlayedWorker) -> None:
    answer = person.post(
        "/console/edit/says", json={"prompts": ["a", HOSTILE]}, headers=scripts(person)
    )
    assert answer.json()["version"] == "v0"
    assert [one["prompt"] for one in answer.json()["said"]] == ["a", HOSTILE]
    assert answer.json()["said"][0]["text"] == "v0 says a"
    wrong = person.post("/console/edit/says", json={}, headers=scripts(person))
    assert wrong.status_code == 422


def test_facts_at_hand_are_those_of_a_version(
    person: httpx.Client, worker: PlayedWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = worker.store
    v1 = add_version(store, "v0", editor="jeep", edit_id="e1", facts=[FactRecord(**LYON)])
    again = FactRecord(**{**LYON, "target_new": "Peru"})
    v2 = add_version(store, v1, editor="jeep", edit_id="e2", facts=[again])
    found = [listing.live_fact(store, one, "Lyon", PROMPT) for one in ("v0", v1, v2)]
    assert [one and one.target_new for one in found] == [None, "Japan", "Peru"]
    both = [(" Lyon", PROMPT), ("Oslo", PROMPT)]
    told = [(*one, " Japan") for one in both]
    counts = [(0, 0), (0, 1), (1, 0)]
    assert [listing.taught(store, one, told) for one in ("v0", v1, v2)] == counts

    def none(*_: object) -> dict[str, str]:
        raise NoIndex("away")

    monkeypatch.setattr(indexed, "answers", none)
    assert [listing.taught(store, one, told) for one in ("v0", v1, v2)] == counts


# ---------------------------------------------------------------- the form


def test_the_page_offers_editors_and_begins_with_what_a_link_brings(
    person: httpx.Client, model: Store
) -> None:
    page = person.get("/console/edit", params={"subject": HOSTILE, "target_new": "x"})
    assert HOSTILE not in page.text
    [facts] = re.findall(r'data-facts="([^"]*)"', page.text)
    assert json.loads(html.unescape(facts)) == [{"subject": HOSTILE, "target_new": "x"}]
    assert '<option value="jeep" selected>' in page.text
    [presets] = re.findall(r'data-presets="([^"]*)"', page.text)
    assert json.loads(html.unescape(presets))["jeep"]
    settings = person.get("/console/edit/settings?editor=jeep").text
    assert 'data-pointer="/hparams/low/layers"' in settings
    assert "From the preset" in settings
    assert "chosen with the editor" in person.get("/console/edit/settings?editor=auto").text
    unknown = person.get("/console/edit/settings", params={"editor": HOSTILE})
    assert (unknown.status_code, "No editor" in unknown.text) == (200, True)
    assert HOSTILE not in unknown.text


def test_without_a_model_the_page_says_why(person: httpx.Client, store: Store) -> None:
    page = person.get("/console/edit")
    assert page.status_code == 200
    assert "There is no model to edit" in page.text
    assert "<form id" not in page.text


def test_settings_are_laid_out_by_their_path() -> None:
    found = flat({"low": {"layers": [1], "clamp": 0.5}, "none": {}, "rate": 1})
    assert found == [("low.layers", [1]), ("low.clamp", 0.5), ("none", {}), ("rate", 1)]


def test_scopes_decide_what_is_offered(shown: httpx.Client, kept: Store) -> None:
    sign_in(shown, kept, Scope.EDIT)
    page = shown.get("/console/edit").text
    assert 'data-asks="no"' in page
    assert "/console/edit/newest" not in page
    shown.post("/console/sign-out")
    sign_in(shown, kept, Scope.READ)
    assert shown.get("/console/edit").status_code == 403
    assert 'href="/console/edit"' not in shown.get("/console/state").text
    assert "No edit yet" in shown.get("/console/edit/newest").text
    assert shown.get("/console/edit/edit_x").status_code == 404


# ---------------------------------------------------------------- sending and its outcome


def test_an_edit_is_sent_once_and_shown(person: httpx.Client, worker: PlayedWorker) -> None:
    headers = scripts(person) | {"Idempotency-Key": "one"}
    rephrased = {**LYON, "paraphrase_prompts": ["Lyon lies in"], "target_true": "France"}
    body = {"facts": [rephrased], "editor": "jeep"}
    worker.go.clear()
    sent = [person.post("/console/edit", json=body, headers=headers) for _ in range(2)]
    assert [one.status_code for one in sent] == [202, 202]
    assert sent[0].json() == sent[1].json()
    place = sent[0].json()["location"]
    page = person.get(place)
    assert "data-job=" in page.text
    assert "/cancel" in page.text
    job = re.findall(r'data-job="(job_\w+)"', page.text)[0]
    worker.go.set()
    shown = ended(person, place.rpartition("/")[2])
    assert shown.headers["hx-trigger"] == "jeep-changed"
    for text in ("v1 believes it", "old", "1 % → 99 %", "version=v0&amp;version=v1"):
        assert text in shown.text, text
    assert len(list(worker.store.journal.all())) == 1
    asked = person.get(f"{place}/facts/0")
    assert "v0 says Lyon lies in" in asked.text
    assert "v1 says Lyon lies in" in asked.text
    assert person.get(f"{place}/facts/7").status_code == 404
    with person.stream("GET", f"/console/jobs/{job}/events") as events:
        assert events.headers["content-type"].startswith("text/event-stream")
        text = "".join(events.iter_text())
    assert '"status": "succeeded"' in text
    assert person.get("/console/jobs/job_x/events").status_code == 404
    newest = person.get("/console/edit/newest").text
    assert f'href="{place}"' in newest
    assert "100 %" in newest
    other = {**body, "editor": "memit"}
    reused = person.post("/console/edit", json=other, headers=headers)
    assert (reused.status_code, reused.json()["code"]) == (422, "idempotency_key_reused")


def test_a_refused_edit_points_to_its_fields(person: httpx.Client, model: Store) -> None:
    headers = scripts(person)
    wrong = {"facts": [{**LYON, "prompt": "none"}], "guards": {"min_success": 2}}
    answer = person.post("/console/edit", json=wrong, headers=headers)
    assert answer.status_code == 422
    assert {error["pointer"] for error in answer.json()["errors"]} == {"/guards/min_success"}
    assert person.post("/console/edit", json=[], headers=headers).status_code == 422
    assert person.post("/console/edit", json=wrong).status_code == 403


def test_lost_facts_guards_and_chats_are_shown_and_can_be_taught_again(
    person: httpx.Client, worker: PlayedWorker
) -> None:
    nice = {**LYON, "subject": "Nice"}
    first = person.post("/edits", json={"facts": [LYON, nice]}).json()["edit_id"]
    ended(person, first)
    osaka = {**LYON, "subject": "Osaka"}
    limited = {"facts": [osaka], "guards": {"max_drift": 0.5}}
    second = person.post("/edits", json=limited).json()["edit_id"]
    ended(person, second)
    lost = EarlierFact(
        version="v1", index=0, prompt=HOSTILE, target_new="Japan", answer=" France",
    )  # fmt: skip
    result = EditResult.model_validate(
        worker.store.journal.read("job_" + second.removeprefix("edit_")).result
    )
    said = Answer(p_new=0.3, text=HOSTILE)
    missed = result.facts[0].model_copy(
        update={"success": False, "chat_before": said, "chat_after": said}
    )
    finished(
        worker.store, second, facts=[missed], warnings=[HOSTILE], efficacy=0.0,
        guards=GuardFigures(
            efficacy=0.5, efficacy_before=0.25, success=0.4321, success_before=0, drift=0.0123
        ),
        earlier=EarlierFacts(
            live=2, checked=2, seed=0, missing={"v1": [0, 1]}, lost=[lost], repaired=3,
            repaired_before=2,
        ),
    )  # fmt: skip
    shown = person.get(f"/console/edit/{second}").text
    assert HOSTILE not in shown
    for text in (
        "v2 writes 0 of 1 new answers",
        "1 is lost; 1 the version before did not",
        "3 taught again in this version, 2 of which",
        "0.0123",
        "0.4321",
        "in a chat:",
        "30 %",
    ):
        assert text in shown, text
    assert "drift, nats per token – 0.0123 at most 0.5 " in read_as_text(shown)
    assert "efficacy 0.25 0.5 – " in read_as_text(shown), "measured, and not limited"
    again = person.get(f"/console/edit?lost={second}")
    [facts] = re.findall(r'data-facts="([^"]*)"', again.text)
    assert [one["subject"] for one in json.loads(html.unescape(facts))] == ["Lyon", "Nice"]
    whole = person.get(f"/console/edit?again={second}")
    [facts] = re.findall(r'data-facts="([^"]*)"', whole.text)
    assert [one["subject"] for one in json.loads(html.unescape(facts))] == ["Osaka"]
    missing = person.get(f"/console/edit/{second}/facts?which=missed").text
    assert "Osaka is a city" in missing


def test_tests_of_a_fact_are_asked_in_a_chat_as_well(
    person: httpx.Client, settings: Settings
) -> None:
    prepare = partial(publish, chat=True)
    queue = connect(str(settings.redis_url))
    rephrased = {**LYON, "paraphrase_prompts": ["Lyon lies in"], "neighborhood_prompts": ["Paris"]}
    with PlayedWorker(queue, settings.store, settings=settings, prepare=prepare):
        checked = check(person, LYON)["facts"][0]
        edit = person.post("/edits", json={"facts": [rephrased]}).json()["edit_id"]
        ended(person, edit)
        asked = person.get(f"/console/edit/{edit}/facts/0").text
    assert checked["chat_text"].startswith("user: Lyon is a city in the country of")
    assert asked.count("<caption>in a chat</caption>") == 2
    for text in ("v1 says Lyon lies in", "v1 says user: Lyon lies in", "v0 says user: Paris"):
        assert text in asked, text


def test_many_facts_come_in_parts(
    person: httpx.Client, worker: PlayedWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outcome, "FACTS_SHOWN", 3)
    facts = [{**LYON, "subject": f"City {i:03}"} for i in range(5)]
    edit = person.post("/edits", json={"facts": facts}).json()["edit_id"]
    assert re.findall(r"City (\d+)", ended(person, edit).text) == ["000", "001", "002"]
    part = person.get(f"/console/edit/{edit}/facts?first=3").text
    assert re.findall(r"City (\d+)", part) == ["003", "004"]
    assert "4 to 5 of 5" in part
    none = person.get(f"/console/edit/{edit}/facts?which=missed").text
    assert "every new answer is written" in none
    assert person.get(f"/console/edit/{edit}/facts?which=x").status_code == 422


def test_a_failed_or_cancelled_edit_says_so(person: httpx.Client, model: Store) -> None:
    edit = person.post("/edits", json={"facts": [LYON]}).json()
    page = person.get(f"/console/edit/{edit['edit_id']}").text
    assert "Waits for its turn" in page
    said = person.post(f"/console/jobs/{edit['id']}/cancel", headers=scripts(person)).text
    assert "Cancelled." in said
    assert "The edit was cancelled" in person.get(f"/console/edit/{edit['edit_id']}").text
    errors: list[dict[str, str | float]] = [{"code": "guard", "limit": 0.9, "figure": 0.5}]
    error = JobError(code="guard_failed", message=f"efficacy {HOSTILE}", errors=errors)
    failed = {"status": JobStatus.FAILED, "error": error, "finished_at": now()}
    model.journal.save(model.journal.read(edit["id"]).model_copy(update=failed))
    text = person.get(f"/console/edit/{edit['edit_id']}").text
    assert "The edit failed" in text
    assert HOSTILE not in text
