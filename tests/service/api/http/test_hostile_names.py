"""Names that try to lead out of the store's folder, wherever a name is accepted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.service.finished_jobs import finished_export, finished_probe
from support.service.fuzzing import bounded
from support.service.played_worker.worker import PlayedWorker

from service.contracts.jobs import Job, JobKind, now
from service.contracts.schemas.access import Scope
from service.contracts.schemas.targets import TargetState
from service.store import Store, StoreError

FACT = {"subject": "Lyon", "prompt": "{} is a city in the country of", "target_new": "Italy"}
TARGET = {"name": "a", "kind": "vllm", "address": "http://127.0.0.1:1"}
SUITE_LINE = {**FACT, "target_true": "France"}
SECRET = "what nobody may read"
PARTS = ["..", ".", "", "~", "outside", "secret", "C:", "CON", "nul.txt", "jobs", "head.json",
         "．．", "%2e%2e", "..\\", "\\\\host\\share", "a" * 300, "\0", "\u202e", "é"]  # fmt: skip
names = st.one_of(
    st.sampled_from(PARTS),
    st.lists(st.sampled_from(PARTS), min_size=2, max_size=6).map("/".join),
    st.lists(st.sampled_from(PARTS), min_size=2, max_size=6).map("\\".join),
    st.integers(1, 8).map(lambda n: "../" * n + "outside/secret"),
    st.just("{outside}/secret"),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=80),
    st.from_regex(r"(jeep_)?[a-z0-9._/\\-]{1,300}", fullmatch=True),
)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder beside the store, with a file that could be taken for a job."""
    folder = tmp_path / "outside"
    folder.mkdir()
    job = Job(id="secret", kind=JobKind.EDIT, payload={"edit_id": SECRET}, created_at=now())
    (folder / "secret.json").write_text(job.model_dump_json())
    (folder / "secret").write_text(SECRET)
    return folder


def everything_but(store: Path) -> dict[str, tuple[int, int]]:
    """Files and folders beside the store, with what changes when they do."""
    found = {}
    for path in store.parent.rglob("*"):
        if store != path and store not in path.parents:
            found[str(path)] = (path.stat().st_mtime_ns, path.stat().st_size)
    return found


def uses(store: Store) -> Iterator[Callable[[str], object]]:
    yield lambda name: store.names.give(name, "v0")
    yield lambda name: store.names.give("mine", name)
    yield store.names.resolve
    yield store.versions.read
    yield store.journal.read
    yield lambda name: store.journal.add(
        Job(id=name, kind=JobKind.EDIT, payload={}, created_at=now())
    )
    yield store.journal.request_cancel
    yield store.journal.cancel_requested
    yield lambda name: store.journal.claim_key(name, "hash", "job_1")
    yield lambda name: store.journal.release_key(name, name)
    yield lambda name: store.base.published(name).write_text("x")
    yield lambda name: store.keys.create(name, [Scope.READ])
    yield store.keys.revoke
    yield store.targets.get
    yield store.targets.state
    yield store.targets.ask
    yield store.targets.remove
    yield lambda name: store.targets.set_state(name, TargetState())
    yield store.keys.find


@bounded(20)
@given(name=names)
@example(name="../outside/secret")
@example(name="{outside}/secret")
def test_the_store_touches_nothing_outside_its_folder(
    name: str, based: Store, outside: Path
) -> None:
    name = name.replace("{outside}", str(outside))
    before = everything_but(based.root)
    for use in uses(based):
        try:
            answer = use(name)
        except (StoreError, ValueError, OSError):
            continue
        assert SECRET not in str(answer)
    assert everything_but(based.root) == before


def encoded(name: str) -> str:
    """One segment of a path that no client normalises."""
    return quote(name, safe="").replace(".", "%2E")


@bounded(6)
@given(name=names)
@example(name="../outside/secret")
@example(name="{outside}/secret")
def test_no_request_leads_out_of_the_store(
    name: str, http: httpx.Client, worker: PlayedWorker, outside: Path
) -> None:
    name = name.replace("{outside}", str(outside))
    before = everything_but(worker.store.root)
    part, probe = encoded(name), finished_probe(http, worker.store)[0]
    export, _ = finished_export(http, worker.store)
    headers = {"Content-Type": "application/json"}
    bodies = [
        ("/snapshots", {"name": name}),
        ("/snapshots", {"name": "mine", "version": name}),
        ("/generate", {"prompt": "a", "version": name}),
        ("/v1/completions", {"model": name, "prompt": "a"}),
        *(
            ("/edits?dry_run=true", {"facts": [FACT], field: name})
            for field in ("editor", "preset", "snapshot_name")
        ),
        ("/edits", {"facts": [FACT], "parent": name}),
        ("/evaluations", {"suite": name}),
        ("/evaluations", {"suite": "atlas-zsre", "versions": [name]}),
        ("/probes", {"suite": name}),
        ("/probes", {"version": name}),
        (f"/snapshots/{part}/export", {"format": "peft"}),
        ("/snapshots/base/export", {"format": name}),
        ("/hypernetworks", {"editor": "mend", "data": name}),
        ("/hypernetworks", {"editor": "mend", "preset": name}),
        *(("/targets", {**TARGET, field: name}) for field in ("follow", "secret", "model")),
        (f"/suites?format=plain&name={part}", SUITE_LINE),
        ("/edits?dry_run=true", {"facts": [{**FACT, "prompt": None, "relation": name}]}),
        ("/edits?dry_run=true", {"facts": [{**FACT, "subject": name}]}),
    ]
    answers = [
        *(
            http.request(method, path.replace("*", part))
            for method, path in [
                ("GET", "/snapshots/*"),
                ("GET", "/snapshots/*/diff/*"),
                ("GET", "/snapshots/*/export"),
                ("POST", "/rollback/*"),
                ("GET", "/jobs/*"),
                ("GET", "/jobs/*/events"),
                ("POST", "/jobs/*/cancel"),
                ("GET", "/edits/*"),
                ("GET", "/docs/assets/*"),
                ("POST", "/snapshots/*/activate"),
                ("POST", "/edits/*/revert"),
                ("GET", "/facts?version=*"),
                ("GET", "/facts?subject=*"),
                ("GET", "/suites/*"),
                ("GET", "/evaluations/*"),
                ("GET", "/evaluations/*/cases?target=*"),
                ("GET", "/evaluations/*/compare?a=*&b=*"),
                ("GET", "/probes/*"),
                ("GET", "/probes/*/files/*"),
                ("GET", f"/probes/{probe}/files/*"),
                ("GET", "/exports/*"),
                ("DELETE", "/exports/*"),
                ("GET", f"/exports/{export}/files/*"),
                ("GET", "/v1/models/*"),
                ("GET", "/targets/*"),
                ("DELETE", "/targets/*"),
                ("POST", "/targets/*/sync"),
            ]
        ),
        *(http.post(path, content=json.dumps(body), headers=headers) for path, body in bodies),
    ]
    for answer in answers:
        assert answer.status_code < 500, answer.text
        assert SECRET not in answer.text
    assert everything_but(worker.store.root) == before


BRACES = ["{0.__class__}", "{0}", "{!r}", "{a[0]}", "{:>999999999}", "{{}}", "%s%n", "${x}", "{"]


@pytest.mark.parametrize("text", BRACES)
def test_braces_in_facts_are_text(text: str, http: httpx.Client, model: Store) -> None:
    fact = {
        "subject": f"Lyon {text}",
        "prompt": "{} " + text.replace("{}", "") + " is in",
        "target_new": f"Italy {text}",
        "paraphrase_prompts": ["{} " + text.replace("{}", "")],
    }
    answer = http.post("/edits?dry_run=true", json={"facts": [fact]})
    if answer.status_code == 422:  # a second slot
        assert answer.json()["code"] == "invalid_facts"
        assert "{}" in text
        return
    [plan] = answer.json()["facts"]
    assert plan["prompt"] == fact["prompt"]
    shown = "".join(plan["tokens"]).replace("Ġ", " ")
    assert shown == fact["prompt"].replace("{}", fact["subject"], 1) + " " + fact["target_new"]
