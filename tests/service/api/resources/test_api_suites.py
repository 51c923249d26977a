"""Suites over HTTP: uploads are whole or not there, and say which lines are wrong."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.service.serving import make_settings, running
from typer.testing import CliRunner

from jeep_core import atlas
from jeep_core.suites.formats.registry import FORMATS
from service.api.resources.suites import description
from service.cli import app
from service.client import ApiError, Client
from service.settings import Settings
from service.store import Store
from service.store.suites import SuiteTaken

GOOD = {
    "subject": "Lyon",
    "prompt": "{} lies in",
    "target_new": "Japan",
    "target_true": "France",
    "neighborhood_prompts": ["Paris lies in"],
}
BAD = {**GOOD, "target_new": ""}
UNUSABLE = {**GOOD, "prompt": "It lies in"}


def lines(*records: Any) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def post(http: httpx.Client, content: Any, **params: Any) -> httpx.Response:
    return http.post("/suites", params={"name": "mine", **params}, content=content)


def files(store: Store) -> list[str]:
    return sorted(path.name for path in (store.root / "suites").iterdir())


def test_the_bundled_suites_are_there(http: httpx.Client) -> None:
    found = http.get("/suites").json()["data"]
    assert [(one["name"], one["bundled"]) for one in found] == [(n, True) for n in atlas.SUITES]
    one = http.get("/suites/atlas-zsre").json()
    assert (one["format"], one["style"]) == ("zsre", "accuracy")
    assert one["cases"] == one["records"] == len(json.loads(atlas.SUITES["atlas-zsre"].read_text()))


def test_an_upload_is_counted_and_kept(http: httpx.Client, store: Store) -> None:
    content = lines(GOOD, UNUSABLE, GOOD)
    answer = post(http, content)
    assert answer.status_code == 201
    assert answer.headers["location"] == "/suites/mine"
    found = answer.json()
    assert {key: found[key] for key in ("format", "style", "records", "cases", "dropped")} == {
        "format": "plain", "style": "contrast", "records": 3, "cases": 2,
        "dropped": {"no_subject": 1},
    }  # fmt: skip
    assert found["bytes"] == len(content)
    assert http.get("/suites/mine").json() == found == http.get("/suites").json()["data"][-1]
    assert store.suites.path("mine").read_bytes() == content
    assert files(store) == ["mine.data", "mine.json"]


def test_the_same_upload_again_is_fine_another_one_is_not(http: httpx.Client, store: Store) -> None:
    first = post(http, lines(GOOD))
    again = post(http, lines(GOOD))
    assert (again.status_code, again.json()) == (200, first.json())
    other = post(http, lines(GOOD, GOOD))
    assert (other.status_code, other.json()["code"]) == (409, "name_taken")
    assert http.get("/suites/mine").json()["cases"] == 1
    bundled = http.post("/suites", params={"name": "atlas-zsre"}, content=lines(GOOD))
    assert (bundled.status_code, bundled.json()["code"]) == (409, "name_taken")
    assert files(store) == ["mine.data", "mine.json"]


def test_bad_records_refuse_the_whole_with_their_lines(http: httpx.Client, store: Store) -> None:
    answer = post(http, lines(GOOD, BAD, UNUSABLE, 7) + b"{\n")
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_suite")
    found = [(error["pointer"], error["code"]) for error in answer.json()["errors"]]
    assert found == [
        ("/lines/2/target_new", "empty"), ("/lines/4", "not_an_object"), ("/lines/5", "not_json"),
    ]  # fmt: skip
    assert files(store) == []
    assert http.get("/suites/mine").status_code == 404


def test_bad_records_can_be_left_out_and_are_counted(http: httpx.Client) -> None:
    found = post(http, lines(GOOD, BAD, UNUSABLE, 7) + b"{\n", drop_bad=True).json()
    assert (found["records"], found["cases"]) == (5, 1)
    dropped = {"empty": 1, "no_subject": 1, "not_an_object": 1, "not_json": 1}
    assert found["dropped"] == dropped


@pytest.mark.parametrize(
    ("content", "params", "where"),
    [
        (b"", {}, "/lines/1"),
        (b"[", {}, "/lines/1"),
        (b"\xff\xfe", {}, "/lines/1"),
        (lines(GOOD), {"format": "zsre"}, "/lines/1/src"),
        (lines(GOOD), {"format": "xml"}, "format"),
        (lines(GOOD), {"name": "../x"}, "name"),
        (lines(GOOD), {"name": ""}, "name"),
        (lines(GOOD), {"name": "my suite"}, "name"),
    ],
)
def test_an_upload_that_is_no_suite_is_refused(
    content: bytes, params: dict[str, str], where: str, http: httpx.Client, store: Store
) -> None:
    answer = post(http, content, **params)
    assert answer.status_code == 422
    [error] = answer.json()["errors"]
    assert where in (error.get("pointer"), error.get("parameter"))
    assert where != "name" or error["message"] == (
        "must be letters, digits and . _ -, beginning with a letter, at most 64 characters"
    )
    assert files(store) == []


@pytest.fixture
def small(tmp_path: Path, valkey: str) -> Iterator[tuple[str, Store]]:
    """An api that takes suites of 20,000 bytes and other bodies of 2,000."""
    settings: Settings = make_settings(tmp_path / "small", valkey)
    limits = {"max_suite_bytes": 20_000, "max_body_bytes": 2_000}
    with running(settings.model_copy(update=limits)) as url:
        yield url, Store.open(settings.store)


@pytest.mark.parametrize("chunked", [False, True])
def test_suites_have_their_own_size_limit(chunked: bool, small: tuple[str, Store]) -> None:
    url, store = small
    large, fitting = [GOOD] * 300, [GOOD] * 100

    def body(records: list[Any]) -> Any:
        return (lines(record) for record in records) if chunked else lines(*records)

    with httpx.Client(base_url=url, timeout=20) as http:
        refused = post(http, body(large))
        assert (refused.status_code, refused.json()["code"]) == (413, "body_too_large")
        assert files(store) == []
        assert post(http, body(fitting)).json()["cases"] == 100


def test_an_interrupted_upload_leaves_nothing(url: str, store: Store) -> None:
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 10) as sock:
        head = "POST /suites?name=mine HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n\r\n"
        sock.sendall(head.encode() + lines(GOOD))
        until(lambda: len(files(store)) == 1)
    until(lambda: files(store) == [])


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_client_uploads_a_file(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "suite.jsonl"
    path.write_bytes(lines(GOOD, UNUSABLE))
    assert client.add_suite("mine", path).cases == 1
    assert [one.name for one in client.suites()] == [*atlas.SUITES, "mine"]
    path.write_bytes(lines(BAD))
    with pytest.raises(ApiError, match="/lines/1/target_new"):
        client.add_suite("other", path)


def test_one_of_two_simultaneous_uploads_of_a_name_wins(store: Store, http: httpx.Client) -> None:
    """Whoever is named first has the name."""
    info = store.suites
    with info.upload() as ours:
        ours.write(lines(GOOD))
        theirs = post(http, lines(GOOD, GOOD)).json()
        mine = theirs | {"sha256": ours.sha256}
        with pytest.raises(SuiteTaken):
            info.add(ours, type(info.get("mine")).model_validate(mine))
    assert info.get("mine").cases == 2
    assert files(store) == ["mine.data", "mine.json"]


FLAT = {
    "prompt": "Lyon lies in",
    "subject": "Lyon",
    "target_new": "Japan",
    "ground_truth": "France",
    "rephrase_prompt": "The state of {} is",
    "locality_prompt": ["Paris lies in", "Its mayor is"],
    "locality_ground_truth": ["France", None],
}


def test_formats_are_described_as_the_registry_has_them(
    http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = http.get("/openapi.json").json()["paths"]["/suites"]["post"]["description"]
    assert ", ".join(f"`{name}`" for name in FORMATS) in described
    assert "`statements`" not in described
    monkeypatch.setitem(FORMATS, "statements", FORMATS["plain"])  # type: ignore[index]
    assert "`plain`, `statements`" in description()


def test_what_is_lost_is_in_the_answer(http: httpx.Client) -> None:
    found = post(http, lines(FLAT, {**FLAT, "prompt": "It lies in"}, {**FLAT, "x": 1})).json()
    assert (found["format"], found["records"], found["cases"]) == ("easyedit", 3, 2)
    assert found["prompts"] == {
        "edit": 2, "paraphrase": 2, "neighbor": 2, "portability": 0, "generation": 0, "alias": 0,
    }  # fmt: skip
    assert found["dropped"] == {"no_subject": 1}
    assert found["left_out"] == {"question_without_answer": 2}
    assert (found["adapted"], found["unread"]) == ({"filled_prompt": 2}, {"x": 1})
    shown = [(one["line"], one["record"], one["field"]) for one in found["problems"]]
    assert shown == [(1, 0, "locality_prompt"), (2, 1, "prompt"), (3, 2, "locality_prompt")]
    assert http.get("/suites/mine").json() == found


def test_how_a_suite_is_judged_can_be_chosen(http: httpx.Client, client: Client) -> None:
    shared = {**FLAT, "locality_prompt": "Paris lies in", "locality_ground_truth": "France"}
    assert post(http, lines(shared)).json()["style"] == "contrast"
    assert post(http, lines(shared), style="auto").status_code == 200
    other = post(http, lines(shared), style="accuracy")
    assert (other.status_code, other.json()["code"]) == (409, "name_taken")
    named = http.post("/suites", params={"name": "b", "style": "accuracy"}, content=lines(shared))
    assert named.json()["style"] == "accuracy"
    without = {key: value for key, value in shared.items() if key != "ground_truth"}
    refused = http.post(
        "/suites", params={"name": "c", "style": "contrast"}, content=lines(without)
    )
    assert refused.status_code == 422
    [error] = refused.json()["errors"]
    assert (error["pointer"], error["code"]) == ("/lines/1/ground_truth", "missing")
    wrong = http.post("/suites", params={"name": "c", "style": "x"}, content=lines(shared))
    assert wrong.json()["errors"][0]["parameter"] == "style"


def test_the_command_says_what_was_lost(url: str, tmp_path: Path) -> None:
    path = tmp_path / "flat.json"
    path.write_text(json.dumps({"data": [FLAT]}, indent=1))
    arguments = ["suites", "add", "mine", str(path), "--style", "accuracy", "--url", url]
    shown = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert shown.exit_code == 0, shown.output
    assert "1 record; 1 edit, 1 paraphrase, 1 neighbor" in shown.output
    assert "left out: 1 question_without_answer" in shown.output
    assert "line 3, record 0, locality_prompt: no answer is given to" in shown.output
