"""The two things that an event loop does otherwise than a thread: files and pauses.

The one module beside `service.client.asynchronous.aside` that is written for each client by hand.
"""

from __future__ import annotations

from collections.abc import Callable
from time import sleep
from typing import TypeVar, TypeVarTuple

__all__ = ["aside", "sleep"]

Given = TypeVarTuple("Given")
T = TypeVar("T")


def aside(call: Callable[[*Given], T], *given: *Given) -> T:
    """The result of a call that reads, writes or hashes a file."""
    return call(*given)
