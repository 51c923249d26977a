"""Explanations over HTTP: what is passed on to the worker, and what is refused."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from support.service.command import jeep
from support.service.played_worker.worker import PlayedWorker

from service.client import ApiError, Client
from service.contracts.schemas.access import Scope
from service.settings import Settings
from service.store import Store

PROMPT = "Lyon is a city in the country of"


def test_an_explanation_is_the_worker_s(http: httpx.Client, worker: PlayedWorker) -> None:
    body = {"prompt": PROMPT, "answer": "Italy", "version": "base", "top": 3, "join": "space"}
    answer = http.post("/explain", json=body)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert (found["version"], found["facts"][0]["subject"]) == ("v0", "Lyon")
    [request] = worker.asked
    assert (request.kind, request.versions) == ("explain", ["v0"])
    assert request.body == {"prompt": PROMPT, "answer": "Italy", "join": "space", "top": 3}


def test_the_client_asks_for_head_and_no_answer(client: Client, worker: PlayedWorker) -> None:
    assert client.explain(PROMPT).probability == 0.8
    assert worker.asked[0].body["answer"] is None
    with pytest.raises(ApiError) as caught:
        client.explain("dense")
    assert (caught.value.code, caught.value.problem.status) == ("not_explainable", 409)


@pytest.mark.parametrize(
    ("body", "status", "pointer"),
    [
        ({}, 422, ""),
        ({"prompt": PROMPT, "messages": [{"role": "user", "content": "a"}]}, 422, ""),
        ({"prompt": ""}, 422, "/prompt"),
        ({"prompt": PROMPT, "version": "v9"}, 422, "/version"),
        ({"prompt": PROMPT, "answer": ""}, 422, "/answer"),
        ({"prompt": PROMPT, "top": 0}, 422, "/top"),
        ({"prompt": f"{PROMPT} ", "answer": "Italy", "join": "none"}, 422, "/answer"),
        ({"prompt": PROMPT, "join": "no"}, 422, "/join"),
        ({"prompt": PROMPT, "versions": "head"}, 422, "/versions"),
        ({"prompt": "a " * 5000}, 413, "/prompt"),
        ({"messages": [{"role": "user", "content": "a"}]}, 422, "/messages"),
    ],
)
def test_a_wrong_request_is_refused_by_its_field(
    body: dict[str, Any], status: int, pointer: str, refusing: httpx.Client
) -> None:
    answer = refusing.post("/explain", json=body)
    assert answer.status_code == status, answer.text
    problem = answer.json()
    assert "candidates" not in answer.text
    if pointer:
        assert problem["errors"][0]["pointer"] == pointer


def test_an_answer_that_leaves_the_prompt_no_room_is_to_be_shortened(
    refusing: httpx.Client,
) -> None:
    answer = refusing.post("/explain", json={"prompt": PROMPT, "answer": "Japan " * 400})
    [error] = answer.json()["errors"]
    assert (answer.status_code, error["code"]) == (422, "too_long")
    assert error["pointer"] == "/answer"
    assert "with a prompt of one token, at most" in error["message"]


def test_without_a_worker_nothing_is_explained(http: httpx.Client, model: Store) -> None:
    answer = http.post("/explain", json={"prompt": PROMPT})
    assert (answer.status_code, answer.json()["code"]) == (503, "no_worker")


class TestScopes:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"auth": "keys"})

    def test_it_shows_facts_so_it_needs_read_beside_generate(
        self, http: httpx.Client, worker: PlayedWorker, store: Store
    ) -> None:
        found = {}
        for scopes in ([Scope.GENERATE], [Scope.READ], [Scope.GENERATE, Scope.READ]):
            token = store.keys.create("-".join(scopes), scopes)[1]
            headers = {"Authorization": f"Bearer {token}"}
            answer = http.post("/explain", json={"prompt": PROMPT}, headers=headers)
            found[tuple(scopes)] = answer.status_code
        assert list(found.values()) == [403, 403, 200]


def test_the_command_shows_facts_layers_and_places(url: str, worker: PlayedWorker) -> None:
    shown = jeep(url, "explain", PROMPT, "--answer", "Italy", "--top", "2")
    assert shown.returncode == 0, shown.stderr
    assert worker.asked[0].body["top"] == 2
    said = shown.stdout
    assert "P('Italy') 0.01 → 0.8" in said
    for words in (("3", "+0.79"), ("Lyon is in", "+90.0%", "0.05"), ("3", "1 ' is'", "25.0%")):
        assert any(all(word in line for word in words) for line in said.splitlines()), words
    assert "v9: its editor is not installed" in said
