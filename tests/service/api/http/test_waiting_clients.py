"""Of clients that wait for an answer nobody asks whether they are still there."""

from __future__ import annotations

import asyncio

import pytest
from fastapi import Request
from starlette.types import Message

from service.api.http.worker_calls import _disconnected

pytestmark = pytest.mark.anyio


async def test_the_server_says_that_a_client_has_gone() -> None:
    gone, asked = asyncio.Event(), 0

    async def receive() -> Message:
        nonlocal asked
        asked += 1
        if asked == 1:  # a body that no route has read
            return {"type": "http.request", "body": b"", "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    waiting = asyncio.ensure_future(_disconnected(Request({"type": "http"}, receive)))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not waiting.done()
    gone.set()
    for _ in range(5):  # without a clock
        await asyncio.sleep(0)
    assert waiting.done()
    assert asked == 2
