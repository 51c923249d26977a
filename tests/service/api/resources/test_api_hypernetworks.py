"""``/hypernetworks``, and edits whose editor needs a network."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

import httpx
import pytest
from support.service.bundled_model import info, publish
from support.service.command import jeep
from support.service.played_worker.worker import PlayedWorker

from jeep_core import atlas
from jeep_core.editors import mend
from jeep_core.editors.networks.records import network_file
from jeep_core.suites import load_counterfact
from service.client import Client
from service.contracts.jobs import JobKind, JobStatus
from service.store import Store

FACT = {"subject": "Lyon", "prompt": "{} is a city in the country of", "target_new": "Italy"}
CASE = {
    "requested_rewrite": {
        "prompt": "{} lies in",
        "subject": "Atlantis",
        "target_new": {"str": "Peru"},
        "target_true": {"str": "France"},
    },
    "paraphrase_prompts": ["Where is Atlantis? In"],
    "neighborhood_prompts": ["Lemuria lies in"],
}


def train(http: httpx.Client, **body: Any) -> httpx.Response:
    return http.post("/hypernetworks", json={"editor": "mend", **body})


def put_data(store: Store, name: str, subject: str = "Atlantis") -> None:
    rewrite = {**CASE["requested_rewrite"], "subject": subject}  # type: ignore[dict-item]
    path = store.base.training_folder / name
    path.write_text(json.dumps([{**CASE, "requested_rewrite": rewrite}]))


def put_network(store: Store, layers: list[int], rank: int) -> None:
    """The files of a shipped network under other hyper-parameters: only the record is read."""
    shipped = atlas.MODELS["atlas-gptj"] / "hypernetworks" / "mend.safetensors"
    record = json.loads(shipped.with_suffix(".json").read_text())
    record["network"] |= {"layers": layers, "rank": rank}
    path = network_file(store.base.networks_folder, info().model_hash, "mend")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").write_text(json.dumps(record))


def test_a_training_is_a_job_of_the_read_lane(http: httpx.Client, model: Store) -> None:
    answer = train(http, hparams={"rank": 7}, steps=30, edit_weight=0.5)
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert (job["kind"], job["status"]) == ("hypernetwork", "queued")
    assert answer.headers["Location"] == f"/jobs/{job['id']}"
    payload = model.journal.read(job["id"]).payload
    assert (payload["preset"], payload["data"]) == ("mend-atlas-gptj", None)
    assert payload["hparams"]["layers"] == [6, 7, 8], "of the preset"
    assert (payload["hparams"]["rank"], payload["options"]["steps"]) == (7, 30)
    assert (payload["options"]["edit_weight"], payload["options"]["facts"]) == (0.5, 16)
    listed = http.get("/jobs", params={"kind": "hypernetwork"}).json()["data"]
    assert [one["id"] for one in listed] == [job["id"]]
    assert http.get("/jobs", params={"kind": "edit"}).json()["data"] == []


@pytest.mark.parametrize(
    ("body", "pointer", "code"),
    [
        ({"editor": "jeep"}, "/editor", "literal_error"),
        ({"steps": 0}, "/steps", "greater_than_equal"),
        ({"learning_rate": -1}, "/learning_rate", "greater_than"),
        ({"edit_weight": 1e999}, "/edit_weight", "finite_number"),
        ({"speed": 1}, "/speed", "extra_forbidden"),
        ({"rank": 4}, "/rank", "misplaced"),
        ({"preset": "none"}, "/preset", "unknown_preset"),
        ({"hparams": {"layers": [8, 9]}}, "/hparams/layers", "no_such_layer"),
        ({"hparams": {"rank": 0}}, "/hparams/rank", "greater_than_equal"),
        ({"data": "../store.json"}, "/data", "string_pattern_mismatch"),
        ({"data": "nothing.json"}, "/data", "no_data"),
    ],
)
def test_a_wrong_training_is_refused_by_its_field(
    http: httpx.Client, model: Store, body: dict[str, Any], pointer: str, code: str
) -> None:
    content = json.dumps({"editor": "mend", **body}).replace("Infinity", "1e999")
    headers = {"Content-Type": "application/json"}
    answer = http.post("/hypernetworks", content=content, headers=headers)
    assert answer.status_code == 422
    [error] = answer.json()["errors"]
    assert (error["pointer"], error["code"]) == (pointer, code)


@pytest.mark.parametrize("suite", sorted(atlas.SUITES))
def test_data_about_subjects_of_a_suite_is_refused(
    http: httpx.Client, model: Store, suite: str
) -> None:
    [record, *_] = json.loads(atlas.SUITES[suite].read_text())
    subject = record.get("requested_rewrite", record)["subject"]
    put_data(model, "cases.json", subject.upper())
    answer = train(http, data="cases.json")
    assert answer.status_code == 422
    [error] = answer.json()["errors"]
    assert (error["pointer"], error["code"]) == ("/data", "overlaps_suite")
    assert repr(subject) in error["message"]


def test_uploaded_data_must_have_the_format(http: httpx.Client, model: Store) -> None:
    put_data(model, "good.json")
    assert train(http, data="good.json").status_code == 202
    (model.base.training_folder / "bad.json").write_text('[{"subject": "Atlantis"}]')
    [error] = train(http, data="bad.json").json()["errors"]
    assert (error["pointer"], error["code"]) == ("/data", "bad_data")


FLAT = {
    "subject": "Atlantis",
    "prompt": "Atlantis lies in",
    "target_new": "Peru",
    "rephrase_prompt": "The state of Atlantis is",
    "locality_prompt": "Lemuria lies in",
    "locality_ground_truth": "Chad",
}


def test_data_in_another_format_is_taken_and_losses_are_counted(
    http: httpx.Client, model: Store
) -> None:
    bare = {key: value for key, value in FLAT.items() if key != "locality_prompt"}
    records = [FLAT, bare, {**FLAT, "prompt": "It lies in"}]
    file = model.base.training_folder / "flat.jsonl"
    put_data(model, "good.json")
    file.write_text("\n".join(map(json.dumps, records)))
    job = train(http, data="flat.jsonl").json()
    found = job["imported"]
    assert (found["format"], found["records"], found["facts"]) == ("wikibigedit", 3, 1)
    assert found["dropped"] == {"no_subject": 1}
    assert found["left_out"] == {"nothing_to_train_on": 1}
    assert http.get(f"/jobs/{job['id']}").json()["imported"] == found
    file.write_text(json.dumps(bare))
    [error] = train(http, data="flat.jsonl").json()["errors"]
    assert (error["pointer"], error["code"]) == ("/data", "bad_data")
    assert "no record has both a rephrased prompt and" in error["message"]


def test_other_models_need_data_and_are_given_the_last_layers(
    http: httpx.Client, model: Store
) -> None:
    other = info().model_copy(update={"model": "my-model", "presets": {}, "preset_values": {}})
    tokenizer = model.base.published("tokenizer.json").read_bytes()
    model.base.publish(other, {"tokenizer.json": tokenizer})
    [error] = train(http).json()["errors"]
    assert (error["pointer"], error["code"]) == ("/data", "missing")
    put_data(model, "cases.json", load_counterfact("atlas-counterfact").cases[0].subject)
    accepted = train(http, editor="malmen", data="cases.json")
    assert accepted.status_code == 202, accepted.text
    payload = model.journal.read(accepted.json()["id"]).payload
    assert (payload["hparams"]["layers"], payload["hparams"]["rank"]) == ([3, 4, 5, 6, 7, 8], 1920)


def test_the_trained_networks_are_listed(http: httpx.Client, model: Store, client: Client) -> None:
    shipped = list(client.hypernetworks())
    assert [(n.editor, n.shipped, n.rank) for n in shipped] == [
        ("mend", True, 128),
        ("malmen", True, 128),
    ]
    assert shipped[0].loss[-1][0] == shipped[0].settings["steps"]
    file = atlas.MODELS["atlas-gptj"] / "hypernetworks" / "mend.safetensors"
    assert shipped[0].sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    put_network(model, [7, 8], 5)
    assert [n.layers for n in client.hypernetworks()] == [[7, 8], [6, 7, 8], [3, 4, 5, 6, 7, 8]]


def test_an_edit_without_a_fitting_network_is_refused_until_there_is_one(
    http: httpx.Client, model: Store
) -> None:
    body = {"facts": [FACT], "editor": "mend", "hparams": {"layers": [7, 8], "rank": 5}}
    answer = http.post("/edits", json=body)
    assert answer.status_code == 409
    problem = answer.json()
    assert problem["code"] == "no_hypernetwork"
    assert problem["errors"][0]["pointer"] == "/editor"
    assert "the one there is for layers 6 7 8, rank 128, 2 blocks" in problem["detail"]
    assert "jeep networks train mend atlas-gptj --layers 7,8 --rank 5" in problem["detail"]
    wanted = problem["detail"].partition("POST /hypernetworks ")[2]
    assert http.post("/hypernetworks", json=json.loads(wanted)).status_code == 202
    assert http.post("/edits", json=body, params={"dry_run": "true"}).status_code == 200
    put_network(model, [7, 8], 5)
    assert http.post("/edits", json=body).status_code == 202
    assert http.post("/edits", json={**body, "hparams": {}}).status_code == 202, "shipped"


def test_a_rollback_leaves_trainings_queued(http: httpx.Client, worker: PlayedWorker) -> None:
    training = train(http).json()["id"]
    worker.go.clear()
    edits = [http.post("/edits", json={"facts": [FACT]}).json()["id"] for _ in range(2)]
    moved = http.post("/rollback/base", params={"queued": "cancel"}).json()
    assert set(moved["cancelled_jobs"]) <= set(edits)
    assert worker.store.journal.read(training).status is JobStatus.QUEUED
    assert http.post(f"/jobs/{training}/cancel").json()["status"] == "cancelled"
    assert worker.store.journal.read(training).status is JobStatus.CANCELLED


def test_the_command_line_submits_and_lists(url: str, model: Store, client: Client) -> None:
    asked = jeep(url, "submit-hypernetwork", "malmen", "--steps", "9", "--no-wait",
                 "--options", '{"facts": 4}')  # fmt: skip
    assert "is queued" in asked.stdout, asked.stderr
    [job] = client.jobs(kind=JobKind.HYPERNETWORK)
    options = model.journal.read(job.id).payload["options"]
    assert (options["steps"], options["facts"]) == (9, 4)
    assert "6 7 8" in jeep(url, "hypernetworks").stdout


def test_automatic_layers_are_not_looked_for_among_networks(
    http: httpx.Client, model: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An editor may have both: which network it needs, only the job knows."""
    rule = lambda found: {"layers": found["low"]["layers"]}  # noqa: E731
    monkeypatch.setattr(mend, "record", replace(mend.record, automatic=rule))
    body = {"facts": [FACT], "editor": "mend", "hparams": "auto"}
    answer = http.post("/edits", json=body)
    assert answer.status_code == 202, answer.text
    assert model.journal.read(answer.json()["id"]).payload["hparams"] == "auto"


@pytest.mark.parametrize("contexts", ["chat", "both"])
def test_a_training_as_a_chat_is_refused_also_where_the_model_has_a_template(
    contexts: str, http: httpx.Client, store: Store
) -> None:
    publish(store, chat=True)
    [error] = train(http, hparams={"contexts": contexts}).json()["errors"]
    assert (error["pointer"], error["code"]) == ("/hparams/contexts", "plain_only")
    assert train(http, hparams={"contexts": "plain"}).status_code == 202
