"""Dialogs: their consequences are said before, what is refused is said beside its field, and what
was filled in stays.
"""

import html
import re
import time
from collections.abc import Callable, Iterator

import httpx
import pytest
from support.service.console import browser, change_headers, seen
from support.service.console.histories import HOSTILE
from support.service.played_worker.worker import PlayedWorker
from support.service.serving import running

from service.api.console.pages.history.exporting import options_of
from service.contracts.exports import FORMATS
from service.contracts.jobs import JobStatus, now
from service.contracts.schemas.exports import (
    ExportFile,
    ExportOrigin,
    ExportResult,
    Proof,
)
from service.contracts.schemas.targets import NewTarget
from service.settings import Settings
from service.store import Store

VERSIONS = "/console/history/versions"
PROMPT = "{} is a city in the country of"
Say = Callable[..., httpx.Response]


@pytest.fixture
def person(url: str, worker: PlayedWorker) -> Iterator[httpx.Client]:
    """A browser at a service with a worker, whose head is v2: Lyon → Italy, then Lyon → Japan."""
    with browser(url) as made:
        made.headers.update(change_headers(made.get("/console/ask")))
        edit(made, ("Lyon", "Italy"), ("Nice", "Spain"))
        edit(made, ("Lyon", "Japan"))
        yield made


def edit(http: httpx.Client, *facts: tuple[str, str], **options: object) -> dict:
    records = [{"subject": s, "prompt": PROMPT, "target_new": t} for s, t in facts]
    sent = {"facts": records, **options}
    answer = http.post("/edits", json=sent, headers={"Prefer": "wait=20"})
    assert answer.status_code in (200, 202), answer.text
    return answer.json()


def until(person: httpx.Client, path: str, unlike: str) -> httpx.Response:
    deadline = time.monotonic() + 10
    while unlike in (answer := person.get(path)).text:
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.02)
    return answer


def follower(store: Store, name: str, follow: str, port: int) -> None:
    address = f"http://127.0.0.1:{port}"
    store.targets.add(NewTarget(name=name, kind="vllm", address=address, follow=follow), 8)


def test_a_rollback_says_what_will_happen_and_does_it(
    person: httpx.Client, worker: PlayedWorker
) -> None:
    follower(worker.store, "vllm-a", "head", 9001)
    follower(worker.store, "vllm-b", "v1", 9002)
    worker.go.clear()
    for city in ("Oslo", "Rome"):
        waits = {"subject": city, "prompt": PROMPT, "target_new": "Chile"}
        person.post("/edits", json={"facts": [waits]})
    dialog = person.get(f"{VERSIONS}/v1/roll-back")
    said = seen(dialog)
    for text in (
        "Make v1 head?", "Head goes from v2 to v1", "v2 stays",
        "1 fact taught otherwise: “Lyon is a city in the country of” Japan → Italy",
        "1 target follows head and will be brought to v1: vllm-a .", "job", "Begin on v1 Cancel",
    ):  # fmt: skip
        assert text in said, (text, said)
    assert "vllm-b" not in said
    form = {"head": "v2", "why": "wrong country", "queued": "cancel"}
    done = person.post(f"{VERSIONS}/v1/roll-back", data=form)
    assert done.status_code == 200, done.text
    assert "Head is v1" in done.text
    assert done.headers["hx-trigger"] == "jeep-changed"
    assert "cancelled" in done.text
    head = worker.store.head.read()
    assert (head.version, head.move.why) == ("v1", "wrong country")
    worker.go.set()
    [entry] = [one for _, one in worker.store.audit.entries() if one.action == "roll_back"]
    assert (entry.target, entry.version) == ("/rollback/v1?queued=cancel", "v1")


def test_a_rollback_is_refused_once_head_has_moved(
    person: httpx.Client, worker: PlayedWorker
) -> None:
    """Its consequences were told for another head."""
    form = {"head": "v1", "why": HOSTILE, "queued": "keep"}
    refused = person.post(f"{VERSIONS}/v0/roll-back", data=form)
    assert refused.status_code == 409
    assert refused.headers["hx-retarget"] == "#dialog"
    assert "Head was v1 and is v2 now" in refused.text
    assert 'name="head" value="v2"' in refused.text
    assert HOSTILE not in refused.text
    assert html.unescape(re.findall(r'name="why" value="([^"]*)"', refused.text)[0]) == HOSTILE
    long = person.post(f"{VERSIONS}/v0/roll-back", data=form | {"head": "v2", "why": "x" * 501})
    assert long.status_code == 422
    assert re.search(r'id="why"[^>]* aria-invalid="true" aria-describedby="why-wrong"', long.text)
    assert re.search(r'<p class="error" role="alert" id="why-wrong">[^<]*500', long.text)
    assert "invalid_request" not in long.text, "said once, at the field"
    failed = person.post(f"{VERSIONS}/v0/roll-back", data=form | {"head": "v2", "why": "fail"})
    assert (failed.status_code, "corrupt_version" in failed.text) == (500, True)
    assert worker.store.head.read().version == "v2"
    without = httpx.post(f"{person.base_url}{VERSIONS}/v0/roll-back", data=form)
    assert without.status_code == 403, "without the token"


def test_a_damaged_record_does_not_close_the_way_back(
    person: httpx.Client, worker: PlayedWorker, settings: Settings
) -> None:
    """In an api that has not read it while it was whole."""
    (worker.store.root / "versions/v2/manifest.json").write_text("{}")
    with running(settings) as fresh, browser(fresh) as other:
        assert "v2 damaged head" in seen(other.get("/console/history/rows"))
        assert "is damaged" in seen(other.get(f"{VERSIONS}/v2"))
        page = other.get(f"{VERSIONS}/v1")
        assert page.status_code == 200, page.text
        dialog = other.get(f"{VERSIONS}/v1/roll-back")
        assert "which facts change is not known" in dialog.text
        other.headers.update(change_headers(page))
        done = other.post(f"{VERSIONS}/v1/roll-back", data={"head": "v2"})
        assert "Head is v1" in done.text, done.text


def test_a_staged_version_is_activated(person: httpx.Client, worker: PlayedWorker) -> None:
    edit(person, ("Oslo", "Chile"), activate=False)
    said = seen(person.get(f"{VERSIONS}/v3/activate"))
    assert "Head goes from v2 to v3" in said
    assert "1 fact taught in addition: “Oslo is a city in the country of” Chile" in said
    assert "No target follows head" in said
    overtaken = person.post(f"{VERSIONS}/v3/activate", data={"why": "overtaken"})
    assert (overtaken.status_code, "version_conflict" in overtaken.text) == (409, True)
    assert 'value="overtaken"' in overtaken.text
    done = person.post(f"{VERSIONS}/v3/activate", data={"why": ""})
    assert "Head is v3" in done.text
    assert worker.store.head.read().version == "v3"
    edit(person, ("Bern", "Chile"), activate=False)
    person.post("/rollback/v1")
    assert "It was made on v3, but head is v1" in seen(person.get(f"{VERSIONS}/v4/activate"))


def test_a_version_is_named_and_errors_stand_at_the_name(
    person: httpx.Client, worker: PlayedWorker
) -> None:
    dialog = person.get(f"{VERSIONS}/head/name")
    assert "A name is given once" in dialog.text
    for name, status in (("head", 422), (HOSTILE, 422), ("", 422)):
        refused = person.post(f"{VERSIONS}/v1/name", data={"name": name})
        assert refused.status_code == status
        assert re.search(
            r'id="name"[^>]* aria-invalid="true" aria-describedby="name-wrong"', refused.text
        )
        assert HOSTILE not in refused.text
    named = person.post(f"{VERSIONS}/v1/name", data={"name": " good "})
    assert "good is v1" in named.text
    assert named.headers["hx-trigger"] == "jeep-changed"
    taken = person.post(f"{VERSIONS}/v2/name", data={"name": "good"})
    assert (taken.status_code, 'value="good"' in taken.text) == (409, True)
    assert worker.store.names.all() == {"good": "v1"}
    assert "is called good already" in person.get(f"{VERSIONS}/v1/name").text


def test_a_batch_is_taken_out(person: httpx.Client, worker: PlayedWorker) -> None:
    said = seen(person.get(f"{VERSIONS}/v1/revert"))
    assert "2 facts are no longer taught: “Lyon is a city in the country of” Italy; “Nice" in said
    assert "1 later batch is edited again on v0" in said
    assert "It is the last one: head goes back to v1" in seen(person.get(f"{VERSIONS}/v2/revert"))
    form = {"head": "v2", "snapshot_name": "v7"}
    refused = person.post(f"{VERSIONS}/v1/revert", data=form)
    assert (refused.status_code, 'id="snapshot_name-wrong"' in refused.text) == (422, True)
    stale = person.post(f"{VERSIONS}/v1/revert", data=form | {"head": "v1", "snapshot_name": "new"})
    assert (stale.status_code, 'value="new"' in stale.text) == (412, True)
    begun = person.post(f"{VERSIONS}/v1/revert", data={"head": "v2", "snapshot_name": ""})
    [path] = re.findall(r'hx-get="(/console/history/jobs/[^"]+)"', begun.text)
    done = until(person, path, "load delay")
    assert "Head is v3" in done.text, done.text
    assert done.headers["hx-retarget"] == "#dialog", "not only where the progress was"
    assert "/console/history/versions/v3" in done.text
    assert worker.store.head.read().version == "v3"
    gone = person.get(f"{VERSIONS}/v1/revert")
    assert "is not part of head's history: head is v3" in html.unescape(gone.text)
    again = seen(person.get("/console/history/rows"))
    assert "again, as in v2" in again


def test_an_export_offers_every_format_with_its_options(
    person: httpx.Client, worker: PlayedWorker
) -> None:
    dialog = person.get(f"{VERSIONS}/head/export")
    assert re.findall(r'name="format" value="([\w-]+)"', dialog.text) == list(FORMATS)
    assert "2 facts are asked again" in seen(dialog)
    assert {one["name"]: one["kind"] for one in options_of(FORMATS["peft"].options_model())} == {
        "max_rank": "whole", "max_error": "number", "dtype": "number",
    }  # fmt: skip
    for wrong in ("x", "-1", "nan", "9" * 400, "²", HOSTILE):
        form = {"format": "peft", "peft.max_rank": wrong, "gguf.type": "Q8_0"}
        refused = person.post(f"{VERSIONS}/head/export", data=form)
        assert refused.status_code == 422, wrong
        assert 'id="peft.max_rank-wrong"' in refused.text
        assert 'aria-describedby="peft.max_rank-hint peft.max_rank-wrong"' in refused.text
        assert re.search(r"<option selected>Q8_0", refused.text), "what was chosen stays"
        assert HOSTILE not in refused.text
    assert person.post(f"{VERSIONS}/head/export", data={"format": "x"}).status_code == 422
    assert person.post(f"{VERSIONS}/head/export").status_code == 422
    assert {job.kind.value for job in worker.store.journal.all()} == {"edit"}, "none was queued"


def test_an_export_ends_with_files_to_download(person: httpx.Client, worker: PlayedWorker) -> None:
    form = {"format": "peft", "peft.max_rank": "8", "peft.max_error": "0.1", "include_facts": "yes"}
    begun = person.post(f"{VERSIONS}/v1/export", data=form)
    [path] = re.findall(r'hx-get="(/console/history/jobs/[^"]+)"', begun.text)
    job = next(one for one in worker.store.journal.all() if one.kind.value == "export")
    assert job.payload["options"] == {
        "format": "peft", "include_facts": True, "max_rank": 8, "max_error": 0.1,
        "dtype": "float32",
    }  # fmt: skip
    assert "Waits for its turn" in person.get(path).text
    folder = worker.store.exports.path(job.id)
    (folder / "a b").mkdir(parents=True)
    (folder / "a b/c.txt").write_text("weights")
    file = ExportFile(path="a b/c.txt", bytes=7, sha256="5" * 64)
    origin = ExportOrigin(
        base="b", base_sha256="0" * 64, licence=None, version="v1", names=[], made_by="x",
        weights_sha256="1" * 64, n_facts=2, editors=["jeep"],
    )  # fmt: skip
    result = ExportResult(
        export_id=job.id.replace("job", "export"), version="v1", format="peft", origin=origin,
        files=[file], bytes=7, use=f"load {HOSTILE}", proof=Proof(facts=2, hold=2, ok=True),
    )  # fmt: skip
    ended = {"status": JobStatus.SUCCEEDED, "finished_at": now(), "result": result.model_dump()}
    worker.store.journal.save(job.model_copy(update=ended))
    worker.client.delete(worker.keys.job(job.id))
    done = person.get(path)
    assert "2 of 2 facts hold" in seen(done)
    assert HOSTILE not in done.text
    [link] = re.findall(r'href="(/console/history/exports/[^"]+)"', done.text)
    whole = person.get(link)
    assert (whole.status_code, whole.text) == (200, "weights")
    assert "attachment" in whole.headers["content-disposition"]
    part = person.get(link, headers={"Range": "bytes=2-3"})
    assert (part.status_code, part.text) == (206, "ig")
    assert part.headers["content-security-policy"].startswith("default-src 'none'")
    same = person.get(link, headers={"If-None-Match": f'"{"5" * 64}"'})
    assert (same.status_code, same.content) == (304, b"")
    listed = seen(person.get(f"{VERSIONS}/v1/exports"))
    assert "peft succeeded 7 B 2 of 2" in listed
    assert "None yet" in person.get(f"{VERSIONS}/v2/exports").text
    lost = person.get(link.replace("c.txt", "d.txt"))
    assert (lost.status_code, "<h1>" in lost.text) == (404, True)
    up = person.get(f"/console/history/exports/{job.id}/files/%2e%2e/%2e%2e/id.json")
    assert up.status_code == 404
