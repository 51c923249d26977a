"""Generated inputs that are read by hand: facts by line, and where a stream of events continues."""

import json
import re
from typing import Any

import httpx
from hypothesis import given
from hypothesis import strategies as st
from support.service.fuzzing import bounded
from support.service.played_worker.worker import PlayedWorker

from service.client import Client
from service.store import Store

FACT = {"subject": "Lyon", "prompt": "{} is a city in the country of", "target_new": "Italy"}

ODD = (
    *(b"", b"\r", b"\xef\xbb\xbf{}", b"{}{}", b"nul", b"1e999", b"\xff\xfe{\0}\0"),
    *(b"[" * 5000, b'{"a":' * 3000, b"9" * 6000, b'{"subject": "\\ud800"}', b'{"facts": []}'),
)

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
changed_fact = st.dictionaries(
    st.sampled_from(
        [*FACT, "relation", "object", "paraphrase_prompts", "messages", "x", "__class__"]
    ),
    anything,
    min_size=1,
    max_size=3,
).map(lambda change: json.dumps({**FACT, **change}).encode())
line = st.one_of(
    st.just(json.dumps(FACT).encode()),
    changed_fact,
    anything.map(lambda value: json.dumps(value).encode()),
    st.binary(max_size=20).filter(lambda data: b"\n" not in data),
    st.sampled_from(ODD),
)


def json_lines(http: httpx.Client, body: bytes, query: str = "") -> httpx.Response:
    headers = {"Content-Type": "application/x-ndjson"}
    return http.post(f"/edits?dry_run=true{query}", content=body, headers=headers)


def test_generated_lines_of_facts_are_taken_or_refused(http: httpx.Client, model: Store) -> None:
    @bounded(60)
    @given(st.lists(line, max_size=8), st.sampled_from([b"\n", b"\r\n", b"\n\n"]))
    def run(lines: list[bytes], end: bytes) -> None:
        body = end.join(lines)
        answer = json_lines(http, body)
        assert answer.status_code in (200, 400, 422), answer.text
        if answer.status_code == 200:
            return
        problem = answer.json()
        assert answer.headers["content-type"] == "application/problem+json"
        assert problem["message"] == problem["detail"]
        assert problem["errors"]
        for error in problem["errors"]:
            place = re.match(r"/lines(?:/(\d+)|$)", error["pointer"])
            assert place, error
            assert place[1] is None or 1 <= int(place[1]) <= len(body.split(b"\n"))

    run()
    assert json_lines(http, json.dumps(FACT).encode()).status_code == 200


RECORDS = (
    {"requested_rewrite": {**FACT, "target_new": {"str": "Italy"}}},
    {**FACT, "target_new": {"str": "Italy"}},
    {**FACT, "ground_truth": "France", "rephrase_prompt": "a", "locality_prompt": "b"},
    {"subject": "Lyon", "src": "Is Lyon?", "answers": ["a"], "loc": "b", "loc_ans": "c"},
    {"prompts": ["Lyon is"], "subject": ["Lyon"], "target_new": ["Italy"]},
    {"requested_rewrite": [{**FACT, "target_new": {"str": "Italy"}}], "questions": ["a"]},
    {**FACT, "target": "Italy", "locality": [{"loc": "a", "loc_ans": "b"}]},
    {"subject": "Lyon", "object": "Italy", "question": "Is Lyon?", "locality_question": "a"},
    {"subject": "Lyon", "update": "Is Lyon?", "ans": "Italy", "mhop": "a", "mhop_ans": "b"},
)
NAMES = sorted({name for record in RECORDS for name in record} | {"portability", "locality_inputs"})
record = st.builds(
    lambda one, change: {**one, **change},
    st.sampled_from(RECORDS),
    st.dictionaries(st.sampled_from(NAMES), anything, max_size=2),
)
wrapped = st.one_of(
    record,
    st.lists(record, max_size=3),
    st.builds(lambda records, name: {name: records}, st.lists(record), st.sampled_from(
        ["facts", "data", "rows"])),
    st.builds(lambda one: {"rows": [{"row": one, "truncated_cells": []}]}, record),
)  # fmt: skip


def test_generated_records_of_other_projects_are_taken_or_refused(
    http: httpx.Client, model: Store
) -> None:
    @bounded(60)
    @given(wrapped, st.sampled_from(["", "&format=auto", "&limit=1", "&drop_bad=true"]))
    def run(value: Any, query: str) -> None:
        headers = {"Content-Type": "application/json"}
        body = json.dumps(value).encode()
        answer = http.post(f"/edits?dry_run=true{query}", content=body, headers=headers)
        assert answer.status_code in (200, 400, 422), answer.text
        if answer.status_code != 200:
            assert answer.json()["errors"], answer.text

    run()


def test_generated_hyper_parameters_beside_lines_are_taken_or_refused(
    http: httpx.Client, model: Store
) -> None:
    @bounded(30)
    @given(anything.map(json.dumps) | st.text(max_size=30) | st.just("[" * 3000))
    def run(hparams: str) -> None:
        query = str(httpx.QueryParams({"hparams": hparams}))
        answer = json_lines(http, json.dumps(FACT).encode(), f"&{query}")
        assert answer.status_code in (200, 400, 422), answer.text

    run()


event_ids = st.one_of(
    st.from_regex(r"[0-9]{1,40}(-[0-9]{1,40})?", fullmatch=True),
    st.sampled_from(["$", ">", "+", "-", "0", "0-0", "-1", "1-", "18446744073709551615-1", "*"]),
    st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"))
    .map(str.strip)
    .filter(lambda text: max(text, default="a") < "\x80" or max(text) > "\x9f"),
)


def events(answer: httpx.Response) -> list[dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    return [json.loads(data) for data in re.findall(r"^data: (\{.*)$", answer.text, re.MULTILINE)]


def test_a_stream_resumes_at_any_generated_event(
    http: httpx.Client, client: Client, worker: PlayedWorker
) -> None:
    job = client.edit([FACT]).id
    client.wait(job)
    whole = events(http.get(f"/jobs/{job}/events"))

    @bounded(60)
    @given(event_ids)
    def run(last: str) -> None:
        headers = {"Last-Event-ID": last.encode("latin-1")}
        seen = events(http.get(f"/jobs/{job}/events", headers=headers))
        assert seen[-1]["status"] == "succeeded"
        assert seen[:-1] == whole[len(whole) - len(seen) : -1], "a part of the end, in order"

    run()
