"""The pages: what they show, what they change, and that no text of others becomes HTML."""

import html
import re
import time
from collections.abc import Iterator
from types import SimpleNamespace

import httpx
import pytest
from support.service.console import HTML, browser, change_headers, read_as_text, sign_in
from support.service.played_worker.worker import PlayedWorker

from service.api.console.pages.start import BUNDLED, to_try
from service.api.console.pages.state import memories
from service.api.console.rendering import model_name, percent, seconds, sentence, size
from service.contracts.jobs import JobError, JobStatus, now
from service.contracts.schemas.access import Scope
from service.store import Store

HOSTILE = "<img src=x onerror=alert(1)>\"'&{{7*7}}{0.__class__}"
FACT = {"subject": HOSTILE, "prompt": f"{{}} {HOSTILE} is in", "target_new": HOSTILE}


@pytest.fixture
def person(url: str) -> Iterator[httpx.Client]:
    """A browser at a console without keys."""
    with browser(url) as made:
        yield made


def htmx(person: httpx.Client) -> dict[str, str]:
    return change_headers(person.get("/console/ask"))


def after(person: httpx.Client, path: str, unlike: str) -> httpx.Response:
    """A part, as soon as it no longer holds a text."""
    deadline = time.monotonic() + 10
    while unlike in (answer := person.get(path)).text:
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.02)
    return answer


# ---------------------------------------------------------------- state


def test_the_state_says_what_is_missing(person: httpx.Client, store: Store) -> None:
    page = person.get("/console/state")
    assert page.status_code == 200
    assert "Not ready" in page.text
    assert page.text.count('class="state missing"') == 3, "all but the queue"
    for said in (
        "No worker is running now.",
        "No worker has loaded a model",
        "jeep targets add",
    ):
        assert said in page.text
    assert "worker and model and head missing" in person.get("/console/status").text


def test_the_state_of_a_service_at_work(person: httpx.Client, worker: PlayedWorker) -> None:
    worker.go.clear()
    person.post("/edits", json={"facts": [{**FACT, "subject": "Lyon", "prompt": "{} is in"}]})
    page = person.get("/console/state")
    live = person.get("/console/state/live")
    for text in (page.text, live.text):
        assert text.count('class="state ok"') == 4
        assert 'class="state queued"' in text or 'class="state running"' in text
    assert "<html" not in live.text
    assert re.search(r"host</th>.*GiB", page.text, re.DOTALL), "memory"
    assert "JEEP_MAX_QUEUE" in page.text
    said = read_as_text(page.text)
    free = re.search(r"free on its disk [\d.,]+ [TGM]iB, at least 256", said)
    assert free, "what is free, beside what must be"
    assert "of weights, configuration and tokenizer" in said
    status = person.get("/console/status").text
    assert "atlas-gptj · v0 · 1 job" in status
    worker.go.set()


def test_keys_are_shown_to_those_who_make_them(shown: httpx.Client, kept: Store) -> None:
    kept.keys.create("anyone", [Scope.READ])
    kept.keys.revoke("anyone")
    sign_in(shown, kept, Scope.READ)
    assert "anyone" not in shown.get("/console/state").text
    assert "Only a key with the scope" in shown.get("/console/state").text
    shown.post("/console/sign-out")
    sign_in(shown, kept, Scope.ADMIN)
    page = shown.get("/console/state").text
    assert "anyone" in page
    assert 'class="state revoked"' in page
    secret = kept.keys.all()[0]
    assert secret.digest not in page
    assert secret.salt not in page


def test_memories_add_up_and_none_is_made_up() -> None:
    page = """# TYPE jeep_host_memory_bytes gauge
jeep_host_memory_bytes{kind="used"} 3.0
jeep_host_memory_bytes{kind="available"} 1.0
# TYPE process_resident_memory_bytes gauge
process_resident_memory_bytes 2.0
# TYPE jeep_gpu_memory_bytes gauge
"""
    found = memories(page)
    assert [(one.name, one.used, one.total) for one in found] == [("worker", 2, 4), ("host", 3, 4)]
    assert memories("") == []
    gpus = "".join(
        f'jeep_gpu_memory_bytes{{device="cuda:{i}",kind="{kind}"}} {i + 1}.0\n'
        for i in range(2)
        for kind in ("allocated", "free")
    )
    shown = [(one.name, one.used, one.total) for one in memories(page + gpus)]
    assert shown[2:] == [("GPU cuda:0", 1, 2), ("GPU cuda:1", 2, 4)]


@pytest.mark.parametrize(
    ("shown_as", "expected"),
    [
        (percent(0.93333), "93.3 %"), (percent(1.0), "100 %"), (percent(0.9999), "100 %"),
        (percent(0.0), "0 %"), (percent(2e-5), "< 0.01 %"), (percent(0.00123), "0.123 %"),
        (seconds(0.2), "0 s"), (seconds(59.0), "59 s"), (seconds(60), "1 min"),
        (seconds(7200), "2 h"), (seconds(200_000), "2 d"), (seconds(-3), "0 s"),
        (model_name("/models/a-7b/"), "a-7b"), (model_name("org/a-7b"), "org/a-7b"),
        (sentence("no worker"), "No worker."), (sentence("Is it so?"), "Is it so?"),
        (size(512), "512 B"), (size(2**20), "1.0 MiB"), (size(3 * 2**40), "3.0 TiB"),
    ],
)  # fmt: skip
def test_figures_are_short(shown_as: str, expected: str) -> None:
    assert shown_as == expected


# ---------------------------------------------------------------- ask


def test_ask_offers_versions_and_takes_a_prompt_from_a_link(
    person: httpx.Client, worker: PlayedWorker
) -> None:
    worker.store.names.give("good", "v0")
    page = person.get("/console/ask", params={"prompt": HOSTILE, "version": ["base", HOSTILE]})
    assert html.escape(HOSTILE, quote=False)[:20] in page.text
    assert HOSTILE not in page.text
    assert '<option value="good">' in person.get("/console/ask/versions").text
    assert "has no chat template" in page.text
    checked = re.findall(r'value="([^"]*)" checked>', page.text)
    assert [html.unescape(value) for value in checked] == ["plain", "base", HOSTILE]


def test_ask_without_a_model_says_why(person: httpx.Client, store: Store) -> None:
    page = person.get("/console/ask")
    assert page.status_code == 200
    assert "There is no model to ask" in page.text
    assert "<form" not in page.text


def test_ask_shows_no_versions_to_who_may_not_read(shown: httpx.Client, kept: Store) -> None:
    sign_in(shown, kept, Scope.GENERATE)
    page = shown.get("/console/ask")
    assert page.url.path == "/console/ask"
    assert "/console/ask/versions" not in page.text
    assert 'data-explains="no"' in page.text
    assert "/console/status" not in page.text


def test_answers_are_streamed_as_the_interface_streams_them(
    person: httpx.Client, worker: PlayedWorker
) -> None:
    headers = htmx(person) | {"Accept": "text/event-stream"}
    body = {"prompt": "a", "version": "base"}
    answer = person.post("/console/ask/stream", json=body, headers=headers)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-model-version"] == "v0"
    same = person.post("/generate", json=body | {"stream": True})
    names = [re.findall(r"^event: (\w+)", one.text, re.MULTILINE) for one in (answer, same)]
    assert names[0] == names[1]
    assert names[0][-1] == "result"
    assert [request.versions for request in worker.asked] == [["v0"], ["v0"]]
    refused = person.post("/console/ask/stream", json={"prompt": ""}, headers=headers)
    problem = refused.json() if "json" in refused.headers["content-type"] else refused.text
    assert refused.status_code == 422, problem
    assert person.post("/console/ask/stream", json=[1], headers=headers).status_code == 422
    assert person.post("/console/ask/stream", json=body).status_code == 403, "without the token"


def test_an_explanation_is_a_part_of_the_page(person: httpx.Client, worker: PlayedWorker) -> None:
    headers = htmx(person)
    form = {"prompt": "Lyon is a city in the country of", "answer": HOSTILE, "version": "base"}
    part = person.post("/console/ask/why", data=form, headers=headers)
    assert part.status_code == 200, part.text
    assert HOSTILE not in part.text
    for text in ("Lyon → Italy", "80 %", "1 %", "v9: its editor is not installed", "0.25 ×"):
        assert text in part.text, text
    dense = person.post("/console/ask/why", data={"prompt": "dense"}, headers=headers)
    assert dense.status_code == 409
    assert "not_explainable" in dense.text
    assert "<html" not in dense.text
    nothing = person.post("/console/ask/why", headers=headers)
    assert (nothing.status_code, "/prompt" in nothing.text) == (422, True)
    wrong = person.post("/console/ask/why", data={"messages": "[1"}, headers=headers)
    assert (wrong.status_code, "malformed_json" in wrong.text) == (400, True)


# ---------------------------------------------------------------- the first minute


def test_the_first_minute_edits_and_goes_back(person: httpx.Client, worker: PlayedWorker) -> None:
    assert person.get("/").url.path == "/console/start"
    facts = person.get("/console/start/facts")
    assert [fact.subject for fact in BUNDLED if fact.subject in facts.text] == [
        "Lyon", "Osaka", "Nairobi",
    ]  # fmt: skip
    numbers = re.findall(r'name="fact" value="(\d+)"', facts.text)
    assert sorted(numbers) == ["0", "1", "2"]
    headers = htmx(person)
    sent = {"fact": [*numbers, "0", "99", "x", "²"]}
    part = person.post("/console/start/edit", data=sent, headers=headers)
    [path] = re.findall(r'hx-get="(/console/start/edit/job_\w+)"', part.text)
    done = after(person, path, "load delay")
    assert "v1 believes it" in done.text
    assert done.headers["hx-trigger"] == "jeep-changed"
    edited = worker.store.versions.read("v1").facts
    assert [fact.subject for fact in edited] == [BUNDLED[int(i)].subject for i in numbers]
    assert person.get("/").url.path == "/console/ask", "no longer new"
    back = person.post("/console/start/back", headers=headers)
    assert "Head is v0 again" in back.text
    actions = [entry.action for _, entry in worker.store.audit.entries()]
    assert actions == ["roll_back", "submit_edit"]


def test_nothing_chosen_and_no_such_job_are_refused(
    person: httpx.Client, worker: PlayedWorker
) -> None:
    part = person.post("/console/start/edit", headers=htmx(person))
    assert part.status_code == 422
    assert "/facts" in part.text
    gone = person.get("/console/start/edit/job_x", headers={"HX-Request": "true"})
    assert (gone.status_code, "unknown_job" in gone.text) == (404, True)


def test_texts_of_users_and_models_are_escaped(person: httpx.Client, worker: PlayedWorker) -> None:
    job = person.post("/edits", json={"facts": [FACT]}).json()
    part = after(person, f"/console/start/edit/{job['id']}", "load delay")
    assert HOSTILE not in part.text
    assert part.text.count("&lt;img src=x onerror=alert(1)&gt;") >= 3
    assert "{{7*7}}{0.__class__}" in part.text, "a text, no template"


def test_an_edit_that_fails_or_is_cancelled_says_so(person: httpx.Client, model: Store) -> None:
    job = person.post("/edits", json={"facts": [FACT]}).json()["id"]
    waiting = person.get(f"/console/start/edit/{job}")
    assert "Waits for its turn" in waiting.text
    person.post(f"/jobs/{job}/cancel")
    assert "The edit was cancelled" in person.get(f"/console/start/edit/{job}").text
    error = JobError(code="guard_failed", message=f"efficacy {HOSTILE}")
    ended = {"status": JobStatus.FAILED, "error": error, "finished_at": now()}
    model.journal.save(model.journal.read(job).model_copy(update=ended))
    failed = person.get(f"/console/start/edit/{job}").text
    assert "The edit failed" in failed
    assert html.escape(f"Efficacy {HOSTILE}")[:30] in failed
    assert HOSTILE not in failed


def test_other_models_get_facts_of_general_knowledge() -> None:
    info = SimpleNamespace(model="someone/else")
    models = SimpleNamespace(get=lambda: SimpleNamespace(info=info))
    facts = to_try(SimpleNamespace(models=models))  # type: ignore[arg-type]
    assert len(facts) >= 9
    assert len({fact.prompt for fact in facts[:3]}) == 3
    assert all(fact.target_true and fact.target_true != fact.target_new for fact in facts)


def test_a_page_that_is_not_there_leads_back_to_where_it_would_be(
    http: httpx.Client, model: Store
) -> None:
    page = http.get("/console/history/versions/v99", headers=HTML)
    assert page.status_code == 404
    assert re.findall(r'class="button" href="([^"]*)"', page.text) == [
        "/console/history",
        "/console",
    ]
