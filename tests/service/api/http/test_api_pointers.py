"""Pointers of errors are places in the request, with one error for each wrong field."""

from typing import Any

import httpx
import pytest

from service.store import Store

CHAT = {"model": "head", "messages": [{"role": "user", "content": 5}]}
PARTS = {"model": "head", "messages": [{"role": "user", "content": [{"type": "text"}]}]}


@pytest.mark.parametrize(
    ("path", "body", "pointer"),
    [
        ("/generate", {"prompt": "a", "version": 5}, "/version"),
        ("/generate", {"prompt": "a", "version": ["head", 5]}, "/version/1"),
        ("/v1/chat/completions", CHAT, "/messages/0/content"),
        ("/v1/chat/completions", PARTS, "/messages/0/content/0/text"),
    ],
)
def test_a_pointer_names_no_type(
    http: httpx.Client, model: Store, path: str, body: dict[str, Any], pointer: str
) -> None:
    answer = http.post(path, json=body).json()
    [error] = answer.get("error", answer)["errors"]
    assert error["pointer"] == pointer
    if "error" in answer:
        assert answer["error"]["param"] == pointer[1:].replace("/0", "[0]").replace("/", ".")


def test_a_parameter_with_several_values_has_one_error(http: httpx.Client, model: Store) -> None:
    answer = http.get("/jobs?status=queued&status=faild&status=don")
    [error] = answer.json()["errors"]
    assert error["parameter"] == "status"
    assert error["message"].count("'succeeded'") == 1
    assert answer.json()["detail"].startswith("status: must be ")
