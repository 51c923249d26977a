"""Bad input: a 4xx that names the field, nothing journaled, nothing queued."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.service.bundled_model import info, publish
from support.service.serving import make_settings, running
from tokenizers import Tokenizer, models

from service.queue import JobQueue, Keys, connect
from service.settings import Settings
from service.store import Store

GOOD = {"subject": "Lyon", "prompt": "{} is a city in the country of", "target_new": "Italy"}


# one api for the whole file: nothing that is sent to it may change anything


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, valkey: str) -> Settings:
    redis = connect(valkey)
    redis.flushall()
    redis.close()
    return make_settings(tmp_path_factory.mktemp("bad") / "store", valkey)


@pytest.fixture(scope="module")
def model(settings: Settings) -> Store:
    store = Store.open(settings.store)
    publish(store)
    return store


@pytest.fixture(scope="module")
def url(settings: Settings) -> Iterator[str]:
    with running(settings) as address:
        yield address


def edit(fact: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {"facts": [{**GOOD, **(fact or {})}], **more}


def triple(**fields: Any) -> dict[str, Any]:
    return {"facts": [{"subject": "Lyon", "relation": "{} lies in", "object": "Peru", **fields}]}


OTHER = {**GOOD, "target_new": "Peru"}
BAD: dict[str, tuple[dict[str, Any], int, str]] = {
    "prompt without slot or subject": (edit({"prompt": "It is in"}), 422, "/facts/0/prompt"),
    "prompt with two slots": (edit({"prompt": "{} and {} are in"}), 422, "/facts/0/prompt"),
    "relation with two slots": (triple(relation="{} or {} is in"), 422, "/facts/0/relation"),
    "subject not in the prompt": (edit({"prompt": "Paris is in"}), 422, "/facts/0/prompt"),
    "subject given empty": (edit({"subject": " "}), 422, "/facts/0/subject"),
    "empty target": (edit({"target_new": ""}), 422, "/facts/0/target_new"),
    "blank object": (triple(object="  "), 422, "/facts/0/object"),
    "no target": (edit({"target_new": None}), 422, "/facts/0/target_new"),
    "target with blanks only": (edit({"target_new": "\u2003\n"}), 422, "/facts/0/target_new"),
    "both forms": (edit({"relation": "capital"}), 422, "/facts/0/relation"),
    "contradiction": ({"facts": [GOOD, OTHER]}, 422, "/facts/1/target_new"),
    "contradiction after NFC": (
        {"facts": [{**GOOD, "subject": "Orl\u00e9ans"}, {**OTHER, "subject": "Orle\u0301ans "}]},
        422,
        "/facts/1/target_new",
    ),
    "contradicting triples": (
        {"facts": [*triple()["facts"], *triple(object="Chile")["facts"]]},
        422,
        "/facts/1/object",
    ),
    "unknown editor": (edit(editor="jepp"), 422, "/editor"),
    "unknown preset": (edit(preset="jeep-gpt-5"), 422, "/preset"),
    "preset of another editor": (edit(preset="memit-atlas-gptj"), 422, "/preset"),
    "unknown parent": (edit(parent="v99"), 422, "/parent"),
    "unknown hyper-parameter": (edit(hparams={"speed": 1}), 422, "/hparams/speed"),
    "non-finite hyper-parameter": (
        edit(hparams={"learning_rate": float("nan")}),
        422,
        "/hparams/learning_rate",
    ),
    "infinite hyper-parameter": (
        edit(hparams={"low": {"clamp": float("inf")}}),
        422,
        "/hparams/low/clamp",
    ),
    "hyper-parameter out of range": (edit(hparams={"n_steps": 0}), 422, "/hparams/n_steps"),
    "layers not there": (
        edit(hparams={"high": {"layers": [8, 9]}}),
        422,
        "/hparams/high/layers",
    ),
    "layers with a gap": (edit(hparams={"low": {"layers": [1, 3]}}), 422, "/hparams/low/layers"),
    "bad snapshot name": (edit(snapshot_name="a b"), 422, "/snapshot_name"),
    "reserved snapshot name": (edit(snapshot_name="v3"), 422, "/snapshot_name"),
    "unknown field": (edit(guard=1), 422, "/guard"),
    "unknown guard": (edit(guards={"min_speed": 1}), 422, "/guards/min_speed"),
    "a guard that is no share": (
        edit(guards={"min_efficacy": 95}),
        422,
        "/guards/min_efficacy",
    ),
    "locality without neighborhood prompts": (
        edit(guards={"min_locality": 0.9}),
        422,
        "/guards/min_locality",
    ),
    "locality with an empty neighborhood prompt": (
        edit({"neighborhood_prompts": ["Nice is", ""]}, guards={"min_locality": 0.9}),
        422,
        "/facts/0/neighborhood_prompts/1",
    ),
    "locality with a neighborhood prompt too long for the model": (
        edit({"neighborhood_prompts": ["is " * 400]}, guards={"min_locality": 0.9}),
        422,
        "/facts/0/neighborhood_prompts/0",
    ),
    "perplexity without a text": (
        edit(guards={"max_perplexity_ratio": 1.1}),
        422,
        "/guards/max_perplexity_ratio",
    ),
    "unknown field of a fact": (edit({"colour": "red"}), 422, "/facts/0/colour"),
    "a fact that is no object": ({"facts": ["Lyon"]}, 422, "/facts/0"),
    "a number as subject": (edit({"subject": 5}), 422, "/facts/0/subject"),
    "no facts": ({"facts": []}, 422, "/facts"),
    "facts missing": ({}, 422, "/facts"),
    "too long for the model": (
        edit({"prompt": "{} " + "is " * 600 + "in"}),
        422,
        "/facts/0/prompt",
    ),
    "unknown way to join": (edit({"join": "dash"}), 422, "/facts/0/join"),
    "subject inside another word": (edit({"prompt": "Lyonville is in"}), 422, "/facts/0/prompt"),
    "a true answer that merges": (
        edit({"prompt": "{} is in ", "target_new": "\nItaly", "target_true": "Peru"}),
        422,
        "/facts/0/target_true",
    ),
    "locality with a neighborhood prompt that merges": (
        edit(
            {"neighborhood_prompts": ["Nice is in "], "target_true": "Peru"},
            guards={"min_locality": 0.9},
        ),
        422,
        "/facts/0/neighborhood_prompts/0",
    ),
    "too many facts": ({"facts": [GOOD] * 51}, 413, "/facts"),
}


def assert_nothing_happened(store: Store, settings: Settings) -> None:
    assert list(store.journal.all()) == []
    assert list((settings.store / "idempotency").glob("*.json")) == []
    redis = connect(str(settings.redis_url))
    assert JobQueue(redis, Keys(store.id)).next(0) is None
    assert redis.keys("jeep:*:job:*") == []
    redis.close()


def assert_problem(answer: httpx.Response, status: int, field: str) -> dict[str, Any]:
    problem: dict[str, Any] = answer.json()
    assert answer.status_code == status, problem
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["status"] == status
    assert problem["request_id"] == answer.headers["x-request-id"]
    named = [e.get("pointer", e.get("parameter")) for e in problem["errors"]]
    assert field in named, problem
    return problem


@pytest.mark.parametrize("name", BAD)
def test_a_bad_edit_names_the_field_and_changes_nothing(
    name: str, http: httpx.Client, model: Store, settings: Settings
) -> None:
    body, status, pointer = BAD[name]
    headers = {"Content-Type": "application/json", "Idempotency-Key": "k"}
    answer = http.post("/edits", content=json.dumps(body), headers=headers)
    assert_problem(answer, status, pointer)
    assert_nothing_happened(model, settings)


def test_every_wrong_fact_is_named_at_once(http: httpx.Client, model: Store) -> None:
    wrong = [{"prompt": "It is in"}, {}, {"target_new": ""}, {"subject": ""}, {"prompt": "{} {}"}]
    facts = [{**GOOD, **change} for change in wrong]
    facts += [{**GOOD, "target_new": "Chad"}]
    problem = http.post("/edits", json={"facts": facts, "editor": "x"}).json()
    assert [e["pointer"] for e in problem["errors"]] == [
        "/editor",
        "/facts/0/prompt",
        "/facts/2/target_new",
        "/facts/3/subject",
        "/facts/4/prompt",
        "/facts/5/target_new",
    ]
    assert "fact 1" in problem["errors"][-1]["message"]


def test_a_target_that_merges_with_the_prompt_is_refused(tmp_path: Path, valkey: str) -> None:
    # a tokenizer that has learned tokens across words, as those of CJK text have
    vocabulary = {"<unk>": 0, "L": 1, "i": 2, "s": 3, " ": 4, "s ": 5, "X": 6}
    merging = Tokenizer(models.BPE(vocabulary, [("s", " ")], unk_token="<unk>"))
    settings = make_settings(tmp_path / "store", valkey)
    store = Store.open(settings.store)
    publish(store)
    store.base.publish(info(), {"tokenizer.json": merging.to_str().encode()})
    with running(settings) as url:
        fact = {"subject": "L", "prompt": "{} is", "target_new": "X"}
        answer = httpx.post(f"{url}/edits", json={"facts": [fact]})
        problem = assert_problem(answer, 422, "/facts/0/target_new")
        assert problem["errors"][0]["code"] == "merges_with_prompt"
        fact = {"subject": "L", "relation": "is", "object": "X"}
        answer = httpx.post(f"{url}/edits", json={"facts": [fact]})
        assert_problem(answer, 422, "/facts/0/object")
    assert_nothing_happened(store, settings)


@pytest.mark.parametrize(
    "body", [b'{"facts": [', b"", b"\xff\xfe", b'"\\ud800"', b"[" * 50_000, b"{'a': 1}", b"{} {}"]
)
def test_malformed_json_is_refused_with_its_place(
    body: bytes, http: httpx.Client, model: Store, settings: Settings
) -> None:
    for path in ("/edits", "/generate", "/snapshots"):
        answer = http.post(path, content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 400
        assert answer.json()["code"] == "malformed_json"
    assert_nothing_happened(model, settings)


@pytest.mark.parametrize("body", ["[]", "null", "3"])
def test_a_body_that_is_no_object_is_refused(body: str, http: httpx.Client, model: Store) -> None:
    answer = http.post("/edits", content=body, headers={"Content-Type": "application/json"})
    detail = assert_problem(answer, 422, "")["detail"]
    assert detail.startswith('the body must be {"facts": [{"subject": "Lyon", "prompt": ')
    assert '{"subject": "Lyon", "relation": "city_country", "object": "Japan"}' in detail


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_large_is_refused(
    chunked: bool, http: httpx.Client, model: Store, settings: Settings
) -> None:
    def chunks():
        for _ in range(300):
            yield b" " * 1000

    body = chunks() if chunked else b" " * 300_000
    answer = http.post("/edits", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 413
    assert answer.json()["code"] == "body_too_large"
    assert answer.headers["x-request-id"]
    assert_nothing_happened(model, settings)


def test_a_declared_length_that_is_too_large_is_refused_unread(url: str, model: Store) -> None:
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 10) as sock:
        sock.sendall(
            b"POST /edits HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999999\r\n\r\n"
        )
        assert sock.recv(100).startswith(b"HTTP/1.1 413")


def test_a_hundred_thousand_facts_are_refused(
    http: httpx.Client, settings: Settings, model: Store
) -> None:
    roomy = settings.model_copy(update={"max_body_bytes": 32 * 2**20, "max_facts": 10_000})
    body = json.dumps({"facts": [GOOD] * 100_000})
    with running(roomy) as url:
        answer = httpx.post(
            f"{url}/edits",
            content=body,
            headers={"Content-Type": "application/json"},
            timeout=30,
        )
        lines = "\n".join([json.dumps(GOOD)] * 100_000)
        by_line = httpx.post(
            f"{url}/edits",
            content=lines,
            headers={"Content-Type": "application/x-ndjson"},
            timeout=30,
        )
    assert_problem(answer, 413, "/facts")
    assert_problem(by_line, 413, "/facts")
    assert_nothing_happened(model, settings)


@pytest.mark.parametrize(
    ("content_type", "status"),
    [("text/csv", 415), ("application/x-www-form-urlencoded", 415), ("application/json5", 415)],
)
def test_other_content_types_are_refused(
    content_type: str, status: int, http: httpx.Client, model: Store
) -> None:
    answer = http.post("/edits", content=b"{}", headers={"Content-Type": content_type})
    assert_problem(answer, status, "Content-Type")


@pytest.mark.parametrize(
    ("lines", "query", "status", "pointer"),
    [
        ([GOOD, {**GOOD, "prompt": "no"}], {}, 422, "/lines/3/prompt"),
        ([GOOD, {**GOOD, "x": 1}], {}, 422, "/lines/3/x"),
        ([GOOD, OTHER], {}, 422, "/lines/3/target_new"),
        ([GOOD, "{"], {}, 400, "/lines/3"),
        ([], {}, 422, "/lines"),
        ([GOOD], {"editor": "romeo"}, 422, "/editor"),
        ([GOOD], {"hparams": "{"}, 400, "/hparams"),
        ([GOOD], {"hparams": '{"n_steps": -1}'}, 422, "/hparams/n_steps"),
        ([GOOD], {"hparams": '{"low": {"clamp": NaN}}'}, 422, "/hparams/low/clamp"),
        ([GOOD], {"parent": "nobody"}, 422, "/parent"),
        ([GOOD], {"snapshot_name": "head"}, 422, "/snapshot_name"),
        ([GOOD], {"dry_run": "perhaps"}, 422, "dry_run"),
    ],
)
def test_uploads_by_line_name_the_line(
    lines: list[Any],
    query: dict[str, str],
    status: int,
    pointer: str,
    http: httpx.Client,
    model: Store,
    settings: Settings,
) -> None:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    headers = {"Content-Type": "application/x-ndjson"}
    answer = http.post("/edits", content="\n\n".join(texts), headers=headers, params=query)
    assert_problem(answer, status, pointer)
    assert_nothing_happened(model, settings)


def test_options_of_uploads_by_line_do_not_mix_with_json(http: httpx.Client, model: Store) -> None:
    answer = http.post("/edits", json=edit(), params={"editor": "memit"})
    assert_problem(answer, 422, "editor")


@pytest.mark.parametrize("key", ["", "a" * 256, "a\tb"])
def test_bad_idempotency_keys_are_refused(
    key: str, http: httpx.Client, model: Store, settings: Settings
) -> None:
    answer = http.post("/edits", json=edit(), headers={"Idempotency-Key": key})
    assert_problem(answer, 422, "Idempotency-Key")
    assert_nothing_happened(model, settings)


BAD_GENERATE: dict[str, tuple[dict[str, Any], str]] = {
    "neither prompt nor prompts": ({}, ""),
    "both": ({"prompt": "a", "prompts": ["b"]}, ""),
    "no prompts": ({"prompts": []}, "/prompts"),
    "empty prompt": ({"prompt": ""}, "/prompt"),
    "one empty prompt": ({"prompts": ["a", ""]}, "/prompts/1"),
    "long prompt": ({"prompt": "word " * 300}, "/prompt"),
    "no room for the answer": ({"prompt": "a b c", "max_new_tokens": 255}, "/prompt"),
    "unknown version": ({"prompt": "a", "version": "v7"}, "/version"),
    "one unknown version": ({"prompt": "a", "version": ["base", "gone"]}, "/version/1"),
    "no version": ({"prompt": "a", "version": []}, "/version"),
    "non-finite temperature": ({"prompt": "a", "temperature": float("nan")}, "/temperature"),
    "top_p of zero": ({"prompt": "a", "top_p": 0}, "/top_p"),
    "negative seed": ({"prompt": "a", "seed": -1}, "/seed"),
    "empty stop": ({"prompt": "a", "stop": [""]}, "/stop/0"),
    "empty candidate": ({"prompt": "a", "candidates": ["x", ""]}, "/candidates/1"),
    "candidate that merges": ({"prompt": "a ", "candidates": ["\n", "Peru"]}, "/candidates/1"),
    "unknown way to join": ({"prompt": "a", "candidates": ["x"], "join": "dash"}, "/join"),
    "stream of two": ({"prompts": ["a", "b"], "stream": True}, "/stream"),
    "unknown field": ({"prompt": "a", "max_tokens": 1}, "/max_tokens"),
    "text as number": ({"prompt": "a", "top_k": "many"}, "/top_k"),
}


@pytest.mark.parametrize("name", BAD_GENERATE)
def test_a_bad_generation_names_the_field(name: str, http: httpx.Client, model: Store) -> None:
    body, pointer = BAD_GENERATE[name]
    headers = {"Content-Type": "application/json"}
    answer = http.post("/generate", content=json.dumps(body), headers=headers)
    assert_problem(answer, 422, pointer)


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/jobs?limit=0", "limit"),
        ("/jobs?limit=many", "limit"),
        ("/jobs?status=asleep", "status"),
        ("/jobs?after=x", "after"),
        ("/edits?after=job_1", "after"),
        ("/snapshots?after=head", "after"),
        ("/snapshots/base/export?format=zip", "format"),
    ],
)
def test_bad_parameters_are_named(path: str, field: str, http: httpx.Client, model: Store) -> None:
    answer = http.get(path)
    assert_problem(answer, 422, field)
    assert "^" not in answer.text, "a pattern"
    assert field != "after" or "must be what an earlier page gave as next" in answer.text


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("DELETE", "/edits", 405, "method_not_allowed"),
        ("GET", "/jobs/job_01", 404, "unknown_job"),
        ("GET", "/jobs/..%2f..%2fformat", 404, "not_found"),
        ("GET", "/jobs/job_01/events", 404, "unknown_job"),
        ("POST", "/jobs/job_01/cancel", 404, "unknown_job"),
        ("GET", "/edits/edit_01", 404, "unknown_edit"),
        ("GET", "/snapshots/v9", 404, "unknown_version"),
        ("GET", "/snapshots/v" + "9" * 300, 404, "unknown_version"),
        ("POST", "/rollback/v" + "9" * 5000, 404, "unknown_version"),
        ("GET", "/snapshots/v9/diff/base", 404, "unknown_version"),
        ("GET", "/snapshots/v9/export", 404, "unknown_version"),
        ("POST", "/rollback/v9", 404, "unknown_version"),
        ("POST", "/rollback/base?queued=maybe", 422, "invalid_request"),
    ],
)
def test_unknown_resources_are_not_found(
    method: str, path: str, status: int, code: str, http: httpx.Client, model: Store
) -> None:
    answer = http.request(method, path)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"name": "head"}, "/name"),
        ({"name": "v12"}, "/name"),
        ({"name": "no spaces"}, "/name"),
        ({"name": "fine", "version": "v9"}, "/version"),
        ({}, "/name"),
    ],
)
def test_bad_names_are_refused(
    body: dict[str, Any], field: str, http: httpx.Client, model: Store
) -> None:
    answer = http.post("/snapshots", json=body)
    assert_problem(answer, 422, field)
    assert field != "/name" or body == {} or "beginning with a letter" in answer.text
    assert model.names.all() == {}
