"""The two clients have the same calls, and every route of the api has one."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from support import ROOT

from service.client import ApiError, AsyncClient, Client
from tools.docs.http_reference import description

NOT_CALLED = {
    "/livez",  # a call waits for it after a lost connection
    "/metrics",
    "/openapi.json",
}
"""Routes for other programs than this client; those of the documentation are not described."""
HEAD_ONLY = {("HEAD", "/exports/{id}/files/{path}")}


def calls(client: type) -> dict[str, Callable[..., Any]]:
    """The public methods of a client."""
    return {
        name: method
        for name, method in inspect.getmembers(client, inspect.isfunction)
        if not name.startswith("_")
    }


def plain(annotation: str) -> str:
    """A type as the client without an event loop has it."""
    return re.sub(r"\bAsync(Iterator|Generator|BaseTransport)\b", r"\1", annotation)


def signature(method: Callable[..., Any]) -> tuple[list[tuple[Any, ...]], str]:
    found = inspect.signature(method)
    assert found.return_annotation is not found.empty
    parameters = [
        (
            one.name,
            one.kind,
            plain(str(one.annotation)),
            "" if callable(one.default) else one.default,
        )
        for one in found.parameters.values()
    ]
    return parameters, plain(str(found.return_annotation))


def test_both_have_the_same_names() -> None:
    assert calls(AsyncClient).keys() == calls(Client).keys()
    assert len(calls(Client)) > 50


@pytest.mark.parametrize("name", ["__init__", *calls(Client)])
def test_both_take_and_give_the_same(name: str) -> None:
    mine, other = getattr(Client, name), getattr(AsyncClient, name)
    assert signature(mine) == signature(other)
    assert inspect.getdoc(mine) == inspect.getdoc(other)


@pytest.mark.parametrize("name", calls(Client))
def test_what_gives_many_is_an_iterator_and_the_rest_is_awaited(name: str) -> None:
    result = str(inspect.signature(getattr(AsyncClient, name)).return_annotation)
    gives_many = result.startswith(("AsyncIterator", "AsyncGenerator"))
    assert inspect.iscoroutinefunction(getattr(AsyncClient, name)) != gives_many
    assert not inspect.iscoroutinefunction(getattr(Client, name))
    assert "Any" not in result, "answers are models"


def test_the_page_names_every_call() -> None:
    page = (ROOT / "docs" / "client.md").read_text("utf-8")
    section = page.split("\n## Calls\n")[1].split("\n### ")[0]
    assert set(re.findall(r"`(\w+)`", section)) >= calls(Client).keys()


NOW = str(datetime(2026, 1, 1, tzinfo=UTC))
EXPORT = {
    "id": "x", "job_id": "job_1", "status": "succeeded", "version": "v1", "format": "gguf",
    "options": {}, "available": True, "created_at": NOW, "progress": {},
    "result": {
        "export_id": "x", "version": "v1", "format": "gguf", "bytes": 1, "use": "",
        "files": [{"path": "one/file", "bytes": 1, "sha256": "0" * 64}],
        "proof": {"facts": 1, "ok": True},
        "origin": {
            "base": "b", "base_sha256": "", "licence": None, "version": "v1", "names": [],
            "weights_sha256": "", "n_facts": 1, "editors": [], "made_by": "",
        },
    },
}  # fmt: skip
PROBE = {
    "id": "x", "job_id": "job_1", "status": "succeeded", "suite": None, "version": "v0",
    "limit": 1, "seed": 0, "created_at": NOW, "progress": {},
    "result": {
        "probe_id": "x", "version": "v0", "prompts": 1, "dropped": {}, "files": ["probe.json"],
    },
}  # fmt: skip
ANSWERS = {("GET", "/exports/x"): EXPORT, ("GET", "/probes/x"): PROBE}
"""Of routes whose answers say what is asked next; every other request is refused."""


class Asked:
    """Refuses every request, and keeps its method and path."""

    def __init__(self) -> None:
        self.seen: set[tuple[str, str]] = set()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        key = (request.method, request.url.path)
        self.seen.add(key)
        if key in ANSWERS:
            return httpx.Response(200, json=ANSWERS[key])
        problem = {"title": "no", "status": 403, "detail": "no", "code": "no", "request_id": "r"}
        if request.url.path.startswith("/v1/"):
            problem = {"error": {"message": "no", "type": "t", "code": "no", "request_id": "r"}}
        return httpx.Response(403, json=problem)


def arguments(name: str, folder: Path) -> dict[str, Any]:
    """Something for every parameter of a call that must be given."""
    (folder / "file").write_text("{}")
    texts = {
        "path": folder / "file",
        "folder": folder / "made",
        "facts": [],
        "tokens": [1],
        "size": 1,
    }
    parameters = list(inspect.signature(getattr(Client, name)).parameters.values())[1:]
    needed = [one for one in parameters if one.default is one.empty and one.kind != one.VAR_KEYWORD]
    return {one.name: texts.get(one.name, "x") for one in needed}


def make(name: str, folder: Path) -> set[tuple[str, str]]:
    """Make a call with the client without an event loop; the requests that it has sent."""
    asked = Asked()
    with Client("http://service", transport=httpx.MockTransport(asked)) as client:
        said = call_of(client, name, folder)
        try:
            answer = said()
            if inspect.isgenerator(answer):
                next(answer)
        except ApiError:
            pass
    return asked.seen


async def make_async(name: str, folder: Path) -> set[tuple[str, str]]:
    asked = Asked()
    async with AsyncClient("http://service", transport=httpx.MockTransport(asked)) as client:
        said = call_of(client, name, folder)
        try:
            answer = said()
            if inspect.isasyncgen(answer):
                await anext(answer)
            else:
                await answer
        except ApiError:
            pass
    return asked.seen


def call_of(client: Any, name: str, folder: Path) -> Callable[[], Any]:
    given = arguments(name, folder)
    if name == "submit_export":
        given["format"] = "peft"
    if name.startswith("wait_ready"):
        given["timeout"] = 0.0
    return lambda: getattr(client, name)(**given)


def requests(how: Callable[[str, Path], set[tuple[str, str]]], folder: Path) -> set[Any]:
    found: set[tuple[str, str]] = set()
    for name in calls(Client):
        try:
            found |= how(name, folder)
        except TimeoutError:  # the service that is played is never ready
            assert name == "wait_ready"
    return found


def test_every_route_has_a_call_of_both(tmp_path: Path) -> None:
    mine = requests(make, tmp_path)
    other = requests(lambda name, folder: asyncio.run(make_async(name, folder)), tmp_path)
    assert mine == other
    for method, path in routes():
        pattern = re.sub(r"{(?!path})\w+}", "[^/]+", path).replace("{path}", ".+")
        sent = [one for one in mine if one[0] == method and re.fullmatch(pattern, one[1])]
        assert sent, f"{method} {path} has no call"


def routes() -> list[tuple[str, str]]:
    """Every route that is described, but those for other programs."""
    found = [
        (method.upper(), path)
        for path, operations in description()["paths"].items()
        for method in operations
        if path not in NOT_CALLED
    ]
    assert len(found) > 45
    return [one for one in found if one not in HEAD_ONLY]
