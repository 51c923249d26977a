"""The two things that an event loop does otherwise than a thread: files and pauses.

The one module beside `service.client.synchronous.aside` that is written for each client by hand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

from anyio import sleep, to_thread

__all__ = ["aside", "sleep"]

Given = TypeVarTuple("Given")
T = TypeVar("T")


async def aside(call: Callable[[*Given], T], *given: *Given) -> T:
    """The result of a call that reads, writes or hashes a file, made on another thread."""
    return await to_thread.run_sync(call, *given)
