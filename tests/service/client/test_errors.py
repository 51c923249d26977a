"""Mistakes of a program are named: wrong arguments, addresses, closed clients, refusals."""

from __future__ import annotations

import asyncio
import inspect
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.service.played_worker.worker import PlayedWorker

from service.client import (
    ApiError,
    AsyncClient,
    Client,
    ClientClosed,
    ClientError,
    InvalidAddress,
    InvalidArgument,
    Unreachable,
)
from service.client.synchronous import jobs as calls_for_jobs
from service.contracts.schemas import Problem

LYON = {"subject": "Lyon", "prompt": "{} lies in", "target_new": "Japan"}


@pytest.mark.parametrize("how", ["ended", "broken"])
def test_events_that_end_at_once_are_not_asked_for_for_ever(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever lies between may end each stream at once, though the service answers."""
    asked, pauses = list[str](), list[float]()
    monkeypatch.setattr(calls_for_jobs, "sleep", pauses.append)

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        if len(asked) > 1000:
            raise AssertionError("it asks for ever")
        if how == "broken" and "events" in request.url.path:
            raise httpx.RemoteProtocolError("closed without an answer", request=request)
        return httpx.Response(200, headers={"Content-Type": "text/event-stream"})

    with (
        Client("http://service", transport=httpx.MockTransport(answer)) as client,
        pytest.raises(Unreachable, match="ends at once" if how == "ended" else "closed without"),
    ):
        client.wait("job_1")
    assert len(pauses) == asked.count("/jobs/job_1/events") - 1 == 99


@pytest.mark.parametrize("client", [Client, AsyncClient])
@pytest.mark.parametrize(
    "address",
    [
        *("", "localhost:18471", "127.0.0.1:18471", "localhost", "://", "ftp://x", "http://"),
        *("http://a b", "http://x:99999", "http://here:port", "http://[::"),
    ],
)
def test_what_is_no_address_is_refused_at_once(client: type, address: str) -> None:
    with pytest.raises(InvalidAddress, match="no address of a service") as caught:
        client(address)
    assert repr(address) in str(caught.value)
    assert "http://127.0.0.1:8000" in str(caught.value)


@pytest.mark.parametrize("address", ["http://[::1]:8000", "https://h/jeep", "http://a:b@h:1"])
def test_an_address_is_taken(address: str) -> None:
    Client(address).close()


def test_a_service_that_does_not_answer_is_named_without_a_password() -> None:
    with Client("http://me:secret@127.0.0.1:9") as nobody, pytest.raises(Unreachable) as caught:
        nobody.rollback("base")
    assert "http://127.0.0.1:9" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda client: client.edit(LYON), "facts: give a list"),
        (lambda client: client.plan("Lyon"), "facts: give a list"),
        (lambda client: client.edit(1), "facts: give a list"),
        (lambda client: client.edit([LYON, "Lyon"]), "facts[1]: give a mapping"),
        (lambda client: client.snapshot(1), "not 1"),
        (lambda client: client.snapshot(""), "not empty"),
        (lambda client: client.generate("x", temperature=math.nan), "temperature: JSON has no"),
        (lambda client: list(client.stream("x", stop={"."})), "stop: JSON has no"),
        (lambda client: client.edit([{**LYON, "target_new": Path()}]), "facts: JSON has no"),
        (lambda client: Client(api_key="no key"), "this is no API key"),
        (lambda _: Client(api_key=b"jeep_key"), "this is no API key"),  # type: ignore[arg-type]
    ],
)
def test_a_wrong_argument_is_named_and_nothing_is_sent(
    call: Callable[[Client], object], said: str
) -> None:
    def fail(request: httpx.Request) -> httpx.Response:
        raise AssertionError(request)

    with (
        Client(transport=httpx.MockTransport(fail)) as client,
        pytest.raises(InvalidArgument, match=re.escape(said)) as caught,
    ):
        call(client)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, ClientError)


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.snapshot(),
        lambda client: client.ready(),
        lambda client: list(client.stream("x")),
        lambda client: list(client.follow("job_1")),
    ],
)
def test_a_closed_client_says_so(call: Callable[[Client], object]) -> None:
    client = Client()
    client.close()
    with pytest.raises(ClientClosed, match="closed"):
        call(client)


def test_closing_in_the_middle_of_a_stream_is_named(url: str, worker: PlayedWorker) -> None:
    client = Client(url)
    stream = client.stream("linger")
    next(stream)
    client.close()
    with pytest.raises(ClientClosed):
        list(stream)

    async def ask() -> None:
        other = AsyncClient(url)
        await other.close()
        await other.snapshot()

    with pytest.raises(ClientClosed):
        asyncio.run(ask())


def problem(detail: str, *errors: dict[str, str]) -> ApiError:
    return ApiError(
        Problem(
            title="", status=422, code="invalid_request", detail=detail, errors=list(errors),
            request_id="",
        )
    )  # fmt: skip


def test_a_refusal_says_everything_once() -> None:
    taken = {"pointer": "/name", "code": "name_taken", "message": "the name is taken"}
    empty = {"pointer": "", "code": "invalid", "message": "give either prompt or prompts"}
    assert str(problem("/name: the name is taken", taken)) == (
        "422 invalid_request: /name: the name is taken"
    )
    assert str(problem("give either prompt or prompts", empty)).count("give either") == 1
    told = problem("/name: the name is taken; give either prompt or prompts", taken, empty)
    assert len(str(told).splitlines()) == 1
    both = str(problem("/name: the name is taken (and 1 more)", taken, empty)).splitlines()
    assert both[1:] == [
        "  /name: the name is taken",
        "  give either prompt or prompts",
    ]


def test_an_unknown_version_is_caught_by_one_code(client: Client, worker: PlayedWorker) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: client.snapshot("none"),
        lambda: client.generate("x", "none"),
    ]
    for call in calls:
        with pytest.raises(ApiError) as caught:
            call()
        assert "unknown_version" in caught.value.codes
        assert caught.value.code in caught.value.codes


def test_paths_may_be_texts(
    client: Client, worker: PlayedWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert client.export("base", "base.safetensors") == Path("base.safetensors").stat().st_size
    Path("facts.json").write_text(json.dumps([LYON]))
    assert client.wait(client.edit_file("facts.json").id).error is None
    Path("suite.json").write_text(json.dumps([{**LYON, "target_true": "France"}]))
    assert client.add_suite("mine", "suite.json").name == "mine"
    for name in ("download_export", "probe_files", "evaluation_cases"):
        parameters = inspect.signature(getattr(client, name)).parameters
        assert "StrPath" in {str(one.annotation) for one in parameters.values()}


def test_help_shows_no_internals() -> None:
    for name, method in inspect.getmembers(Client, inspect.isfunction):
        if name == "__init__" or not name.startswith("_"):
            assert inspect.getdoc(method), name
            assert " at 0x" not in str(inspect.signature(method)), name
