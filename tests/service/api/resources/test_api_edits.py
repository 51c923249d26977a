"""Submitting edits: every way to say a fact, dry runs, repeats, waiting, preconditions."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from support.service.bundled_model import info, publish
from support.service.played_worker.worker import PlayedWorker
from support.service.serving import make_settings, running
from tokenizers import Tokenizer

from jeep_core import atlas
from jeep_core.spec.hparams import load_preset
from service.api.http.problems import ApiProblem
from service.api.submission.edits import check_repair
from service.contracts.schemas import EditOptions, EditPayload
from service.ops.embedded_server import EmbeddedValkey
from service.queue import JobQueue, Keys, connect
from service.settings import Settings
from service.store import Store

FACT = {"subject": "Lyon", "prompt": "{} is a city in the country of", "target_new": "Italy"}
WAIT = {"Prefer": "wait=20"}


def tokenizer_of(model: str) -> Tokenizer:
    return Tokenizer.from_file(str(Path(atlas.MODELS[model]) / "tokenizer.json"))


def submit(http: httpx.Client, **body: object) -> httpx.Response:
    return http.post("/edits", json={"facts": [FACT], **body})


def test_an_edit_is_journaled_and_queued(http: httpx.Client, model: Store, settings) -> None:
    answer = submit(http)
    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["location"] == f"/jobs/{job['id']}"
    assert job["status"] == "queued"
    assert job["edit_id"] == job["id"].replace("job_", "edit_")
    redis = connect(settings.redis_url)
    queued = JobQueue(redis, Keys(model.id)).next(0)
    redis.close()
    assert queued is not None
    stored = model.journal.read(job["id"])
    assert stored == queued.job
    assert stored.payload["preset"] == "jeep-atlas-gptj"
    assert stored.payload["hparams"]["low"]["layers"]
    assert stored.payload["hparams"]["learning_rate"] == 3.1


def test_hyper_parameters_are_laid_over_the_preset(http: httpx.Client, model: Store) -> None:
    answer = submit(http, editor="memit", hparams={"low": {"layers": [4, 5]}, "n_steps": 3})
    hparams = model.journal.read(answer.json()["id"]).payload["hparams"]
    assert hparams["low"]["layers"] == [4, 5]
    preset = load_preset("memit-atlas-gptj").hparams
    assert hparams["low"]["clamp"] == preset["low"]["clamp"]
    assert preset["low"]["layers"] != [4, 5]
    assert hparams["n_steps"] == 3 != preset.get("n_steps")


@pytest.mark.parametrize(
    ("fact", "prompt"),
    [
        ({"subject": "Peru", "relation": "capital"}, "The capital of {} is"),
        ({"subject": "Peru", "relation": "The sea near {} is"}, "The sea near {} is"),
        ({"subject": "Peru", "relation": "lies in"}, "{} lies in"),
        ({"subject": "Peru", "prompt": "Peru, in Peru, is"}, "Peru, in {}, is"),
        ({"subject": " Peru ", "prompt": "{}'s capital is"}, "{}'s capital is"),
    ],
)
def test_every_form_of_a_fact_is_taken(
    fact: dict[str, str], prompt: str, http: httpx.Client, model: Store
) -> None:
    target = "object" if "relation" in fact else "target_new"
    plan = http.post("/edits?dry_run=true", json={"facts": [{**fact, target: "Lima"}]}).json()
    assert plan["facts"][0]["prompt"] == prompt
    assert plan["facts"][0]["subject"] == "Peru"
    assert "".join(plan["facts"][0]["target_tokens"]).strip("Ġ ").endswith("ima")


def test_a_dry_run_shows_positions_and_queues_nothing(refusing: httpx.Client) -> None:
    answer = refusing.post(
        "/edits?dry_run=true", json={"facts": [FACT, FACT, {**FACT, "subject": "X"}]}
    )
    assert answer.status_code == 200
    plan = answer.json()
    assert plan["duplicates"] == [{"index": 1, "kept": 0}]
    assert [fact["index"] for fact in plan["facts"]] == [0, 2]
    first = plan["facts"][0]
    assert first["tokens"][first["prediction"] + 1 :] == first["target_tokens"]
    assert first["subject_last"] < first["prediction"]


@pytest.mark.parametrize(
    ("prompt", "target", "join", "text", "chosen"),
    [
        ("{} is in", "Peru", "auto", "Lyon is in Peru", "space"),
        ("Q: {}?\nA:\n", "Peru", "auto", "Q: Lyon?\nA:\nPeru", "none"),
        ("{}（", "京都", "auto", "Lyon（京都", "none"),
        ("{} is in", " 京都", "auto", "Lyon is in 京都", "none"),
        ("{} is in", "京都", "space", "Lyon is in 京都", "space"),
        ('{} is called "', "Peru", "auto", 'Lyon is called "Peru', "none"),
        ("{} is in", "Peru", "none", "Lyon is inPeru", "none"),
    ],
)
def test_a_dry_run_shows_how_prompt_and_target_join(
    prompt: str, target: str, join: str, text: str, chosen: str, refusing: httpx.Client
) -> None:
    fact = {"subject": "Lyon", "prompt": prompt, "target_new": target, "join": join}
    answer = refusing.post("/edits?dry_run=true", json={"facts": [fact]})
    [plan] = answer.json()["facts"]
    assert (plan["text"], plan["join"]) == (text, chosen)
    tokenizer = tokenizer_of("atlas-gptj")
    ids = [tokenizer.token_to_id(token) for token in plan["tokens"]]
    assert tokenizer.decode(ids) == text
    assert plan["prompt"] == prompt


def test_a_relation_that_may_be_a_misspelt_name_is_a_warning(
    http: httpx.Client, model: Store
) -> None:
    facts = [
        {"subject": subject, "relation": relation, "object": "Peru"}
        for subject, relation in (
            ("Lyon", "nope"), ("Nice", "nope"), ("Rome", "city_country"), ("Oslo", "lies in"),
            ("Kiev", "{} nope"),
        )
    ]  # fmt: skip
    plan = http.post("/edits", params={"dry_run": "true"}, json={"facts": facts}).json()
    [warning] = plan["warnings"]
    assert warning.startswith("no relation is called 'nope'")
    assert "'Lyon nope Peru'" in warning
    assert "write '{} nope'" in warning
    job = http.post("/edits", json={"facts": facts}).json()["id"]
    assert model.journal.read(job).payload["warnings"] == [warning]


def test_a_fact_is_stored_as_it_was_sent(http: httpx.Client, model: Store) -> None:
    fact = {"subject": " Lyon", "prompt": "\nQ: {}?\nA:\n", "target_new": "\tPeru\n"}
    job = http.post("/edits", json={"facts": [{**fact, "join": "none"}]}).json()["id"]
    [stored] = model.journal.read(job).payload["facts"]
    assert stored["subject"] == "Lyon"
    assert stored["prompt"] == "\nQ: {}?\nA:\n"
    assert stored["target_new"] == "\tPeru"
    assert stored["join"] == "none"


@pytest.mark.parametrize("field", ["target_new", "target_true"])
def test_a_blank_at_the_end_of_a_prompt_is_refused_with_what_to_do(
    field: str, refusing: httpx.Client
) -> None:
    fact = {"subject": "Lyon", "prompt": "{} is in ", "target_new": "\nPeru", field: "Italy"}
    problem = refusing.post("/edits", json={"facts": [fact]}).json()
    [error] = problem["errors"]
    assert error["pointer"] == f"/facts/0/{field}"
    assert error["code"] == "merges_with_prompt"
    assert "leave out the white space at the end of the prompt" in error["message"]


def test_a_subject_is_not_found_inside_another_word(refusing: httpx.Client) -> None:
    fact = {"subject": "Lyon", "prompt": "Lyon, not Lyonville, is in", "target_new": "Peru"}
    plan = refusing.post("/edits?dry_run=true", json={"facts": [fact]}).json()
    assert plan["facts"][0]["prompt"] == "{}, not Lyonville, is in"


def test_a_repeated_fact_is_edited_once_and_reported(
    http: httpx.Client, worker: PlayedWorker
) -> None:
    facts = [FACT, FACT, {**FACT, "subject": "Nice"}]
    result = http.post("/edits", json={"facts": facts}, headers=WAIT).json()["result"]
    assert [(fact["index"], fact["subject"]) for fact in result["facts"]] == [
        (0, "Lyon"),
        (2, "Nice"),
    ]
    assert result["duplicates"] == [{"index": 1, "kept": 0}]


def test_facts_can_be_sent_by_line(http: httpx.Client, model: Store) -> None:
    lines = "\n".join(json.dumps({**FACT, "subject": name}) for name in ("Köln", "东京", "Ann"))
    answer = http.post(
        "/edits",
        content=lines.encode() + b"\n\n",
        headers={"Content-Type": "application/jsonl; charset=utf-8"},
        params={"editor": "memit", "hparams": '{"n_steps": 4}', "snapshot_name": "lines"},
    )
    assert answer.status_code == 202, answer.text
    payload = model.journal.read(answer.json()["id"]).payload
    assert [fact["subject"] for fact in payload["facts"]] == ["Köln", "东京", "Ann"]
    assert payload["hparams"]["n_steps"] == 4
    assert (payload["editor"], payload["snapshot_name"]) == ("memit", "lines")


def test_the_same_idempotency_key_gives_the_same_job(http: httpx.Client, model: Store) -> None:
    headers = {"Idempotency-Key": "batch 7"}
    body = {"facts": [FACT]}

    def send(_: int) -> httpx.Response:
        return http.post("/edits", json=body, headers=headers)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(send, range(8)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert sum("idempotency-replayed" not in answer.headers for answer in answers) == 1
    assert len(list(model.journal.all())) == 1

    spaced = http.post(
        "/edits",
        content=json.dumps(body, indent=3),
        headers={**headers, "Content-Type": "application/json"},
    )
    assert spaced.json()["id"] == answers[0].json()["id"]
    other = http.post("/edits", json={"facts": [FACT], "editor": "memit"}, headers=headers)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    assert len(list(model.journal.all())) == 1


def test_a_key_of_a_refused_edit_can_come_with_another_body(
    http: httpx.Client, model: Store
) -> None:
    headers = {"Idempotency-Key": "k"}
    model.names.give("taken", "v0")
    refused = http.post("/edits", json={"facts": [FACT], "snapshot_name": "taken"}, headers=headers)
    assert refused.status_code == 409
    assert http.post("/edits", json={"facts": [FACT]}, headers=headers).status_code == 202


def test_repeating_a_finished_edit_finds_it(http: httpx.Client, worker: PlayedWorker) -> None:
    headers = {"Idempotency-Key": "k", **WAIT}
    body = {"facts": [FACT], "parent": "head", "snapshot_name": "mine"}
    first = http.post("/edits", json=body, headers=headers)
    again = http.post("/edits", json=body, headers=headers)  # head has moved, the name is taken
    assert first.status_code == again.status_code == 200
    assert first.json() == again.json()


def test_prefer_wait_answers_with_the_finished_edit(
    http: httpx.Client, worker: PlayedWorker
) -> None:
    answer = http.post("/edits", json={"facts": [FACT], "snapshot_name": "one"}, headers=WAIT)
    assert answer.status_code == 200
    assert answer.headers["preference-applied"] == "wait=20"
    assert answer.headers["x-model-version"] == "v1"
    job = answer.json()
    assert job["status"] == "succeeded"
    assert job["result"]["facts"][0]["after"]["text"] == "Italy"

    edit = http.get(f"/edits/{job['edit_id']}")
    assert edit.headers["x-model-version"] == "v1"
    assert edit.json()["result"] == job["result"]
    assert edit.json()["facts"][0]["subject"] == "Lyon"
    assert edit.json()["status"] == "succeeded"


def test_a_wait_that_is_too_short_answers_with_the_running_edit(
    http: httpx.Client, worker: PlayedWorker
) -> None:
    worker.go.clear()
    start = time.monotonic()
    answer = http.post(
        "/edits", json={"facts": [FACT]}, headers={"Prefer": "respond-async, wait=1"}
    )
    assert time.monotonic() - start >= 1
    assert answer.status_code == 202
    assert answer.json()["status"] == "running"
    assert answer.json()["progress"]["phase"] == "values"


def test_an_edit_of_another_parent_is_refused(http: httpx.Client, worker: PlayedWorker) -> None:
    assert http.post("/edits", json={"facts": [FACT]}, headers=WAIT).status_code == 200
    late = submit(http, parent="base")
    assert (late.status_code, late.json()["code"]) == (412, "head_moved")
    assert late.json()["errors"][0]["pointer"] == "/parent"
    assert len(list(worker.store.journal.all())) == 1
    assert submit(http, parent="v1").status_code == 202


def test_a_snapshot_name_in_use_is_refused(http: httpx.Client, worker: PlayedWorker) -> None:
    body = {"facts": [FACT], "snapshot_name": "mine"}
    assert http.post("/edits", json=body, headers=WAIT).status_code == 200
    again = http.post("/edits", json=body)
    assert (again.status_code, again.json()["errors"][0]["pointer"]) == (409, "/snapshot_name")
    assert len(list(worker.store.journal.all())) == 1


def test_lists_of_edits_have_cursors(http: httpx.Client, model: Store) -> None:
    ids = [submit(http).json()["edit_id"] for _ in range(5)]
    for path, expected in (
        ("/edits", ids),
        ("/jobs", [i.replace("edit_", "job_") for i in ids]),
    ):
        found: list[str] = []
        after: dict[str, str] = {}
        sizes = []
        while True:
            page = http.get(path, params={"limit": "2", **after}).json()
            found += [item["id"] for item in page["data"]]
            sizes.append(len(page["data"]))
            if not page["has_more"]:
                assert page["next"] is None
                break
            after = {"after": page["next"]}
        assert found == expected[::-1]
        assert sizes == [2, 2, 1]
    summary = http.get("/edits").json()["data"][0]
    assert (summary["n_facts"], summary["status"]) == (1, "queued")


def test_an_edit_before_any_model_is_refused(http: httpx.Client, store: Store) -> None:
    answer = submit(http)
    assert (answer.status_code, answer.json()["code"]) == (503, "no_model")
    assert int(answer.headers["retry-after"]) > 0
    publish(store)
    assert submit(http).status_code == 202


def test_edits_are_taken_while_redis_is_down(tmp_path) -> None:
    folder = tmp_path / "valkey"
    server = EmbeddedValkey(folder)
    server.start()
    settings: Settings = make_settings(tmp_path / "store", server.url)
    publish(Store.open(settings.store))
    server.stop()
    with running(settings) as url, httpx.Client(base_url=url, timeout=30) as http:
        ids = [submit(http).json()["id"] for _ in range(2)]
        assert http.get(f"/jobs/{ids[0]}").json()["status"] == "queued"
        assert len(http.get("/jobs").json()["data"]) == 2
        assert http.post(f"/jobs/{ids[1]}/cancel").json()["status"] == "cancelling"
        assert http.get("/readyz").json()["code"] == "no_queue"
        server.start()
        assert server.url == settings.redis_url
        ids.append(submit(http).json()["id"])
        try:
            with PlayedWorker.of_api(settings):
                done = [_ended(http, job_id) for job_id in ids]
        finally:
            server.stop()
    assert [job["status"] for job in done] == ["succeeded", "cancelled", "succeeded"]
    assert done[0]["result"]["version"] == "v1"
    assert done[2]["result"]["version"] == "v2"


def _ended(http: httpx.Client, job_id: str) -> dict:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        job = http.get(f"/jobs/{job_id}").json()
        if job["finished_at"]:
            return job
        time.sleep(0.1)
    raise AssertionError(job)


def test_guards_reach_the_job(http: httpx.Client, model: Store) -> None:
    near = {**FACT, "neighborhood_prompts": ["Nice lies in"]}
    body = {"facts": [near], "guards": {"min_efficacy": 0.9, "min_locality": 1}}
    by_body = http.post("/edits", json=body)
    by_line = http.post(
        "/edits",
        content=json.dumps(near),
        headers={"Content-Type": "application/x-ndjson"},
        params={"guards": json.dumps(body["guards"])},
    )
    for answer in (by_body, by_line):
        assert answer.status_code == 202, answer.text
        guards = model.journal.read(answer.json()["id"]).payload["guards"]
        assert {n: v for n, v in guards.items() if v is not None} == body["guards"]


def test_a_published_text_allows_the_guard_on_perplexity(http: httpx.Client, model: Store) -> None:
    published = info().model_copy(update={"perplexity_text": True})
    model.base.publish(published, {})
    assert submit(http, guards={"max_perplexity_ratio": 1.1}).status_code == 202


def test_earlier_facts_are_checked_as_the_request_says(http: httpx.Client, model: Store) -> None:
    def queued(answer: httpx.Response) -> tuple[object, bool]:
        assert answer.status_code == 202, answer.text
        found = EditPayload.model_validate(model.journal.read(answer.json()["id"]).payload)
        return found.check_earlier, found.repair

    assert queued(submit(http)) == (None, False)
    assert queued(submit(http, check_earlier="all", repair=True)) == ("all", True)
    assert queued(submit(http, check_earlier=0)) == (0, False)
    line = json.dumps(FACT).encode()
    headers = {"Content-Type": "application/x-ndjson"}
    by_line = http.post("/edits?check_earlier=5&repair=true", content=line, headers=headers)
    assert queued(by_line) == (5, True)


def test_a_repair_needs_facts_that_are_asked_again(refusing: httpx.Client) -> None:
    answer = submit(refusing, check_earlier=0, repair=True)
    [error] = answer.json()["errors"]
    assert (answer.status_code, error["pointer"], error["code"]) == (
        422, "/repair", "nothing_checked",
    )  # fmt: skip
    assert "check_earlier is 0: set check_earlier" in error["message"]
    with pytest.raises(ApiProblem, match="JEEP_CHECK_EARLIER is 0"):
        check_repair(EditOptions(repair=True), 0)
    check_repair(EditOptions(repair=True, check_earlier="all"), 0)
    check_repair(EditOptions(), 0)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        *(
            ("check_earlier", value, 'must be a whole number from 0 to 1000000, or "all"')
            for value in (-1, 1_000_001, 1.5, True, "some", [])
        ),
        ("repair", "perhaps", "must be true or false"),
    ],
)
def test_what_is_to_be_checked_must_be_a_number_or_all(
    field: str, value: object, said: str, refusing: httpx.Client
) -> None:
    answer = submit(refusing, **{field: value})
    [error] = answer.json()["errors"]
    assert (answer.status_code, error["pointer"], error["message"]) == (422, f"/{field}", said)
