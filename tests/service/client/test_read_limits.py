"""How long the client waits for an answer: as long as the service may take for it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from service.client import Client, ClientError
from service.client.requests import ANSWER_S, OPENAI_ANSWER_S
from service.client.synchronous.transport import READ_S


def exported(client: Client) -> int:
    """A version whose tensors may have to be made again first."""
    with tempfile.TemporaryDirectory() as folder:
        return client.export("v2", Path(folder, "v2.safetensors"))


CALLS: dict[str, tuple[Callable[[Client], object], float]] = {
    "generate": (lambda client: client.generate("Lyon lies in"), ANSWER_S),
    "stream": (lambda client: list(client.stream("Lyon lies in")), ANSWER_S),
    "explain": (lambda client: client.explain("Lyon lies in"), ANSWER_S),
    "rollback": (lambda client: client.rollback("base"), ANSWER_S),
    "activate": (lambda client: client.activate("v2"), ANSWER_S),
    "export": (exported, ANSWER_S),
    "complete": (lambda client: client.complete("Lyon lies in"), OPENAI_ANSWER_S),
    "chat": (lambda client: client.chat("Where is Lyon?"), OPENAI_ANSWER_S),
    "snapshot": (lambda client: client.snapshot(), READ_S),
}


def limit_of(call: Callable[[Client], object], timeout: float | None) -> float:
    """The read limit of a call's request."""
    seen: list[float] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.extensions["timeout"]["read"])
        return httpx.Response(200, json={})

    transport = httpx.MockTransport(answer)
    with Client(timeout=timeout, transport=transport) as client, suppress(ClientError):
        call(client)
    return seen[0]


@pytest.mark.parametrize("name", CALLS)
def test_what_two_workers_may_be_asked_is_waited_for(name: str) -> None:
    call, seconds = CALLS[name]
    assert limit_of(call, None) == seconds
    assert limit_of(call, 5.0) == 5.0, "a limit of one's own holds for every call"


def test_the_limits_exceed_what_the_service_takes_by_default() -> None:
    from service.settings import Settings

    settings = Settings()
    twice = 2 * settings.generate_timeout_s + settings.min_version_wait_s
    assert twice < ANSWER_S < 2 * twice < OPENAI_ANSWER_S
