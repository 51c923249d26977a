"""The Python client of the service: `Client`, and `AsyncClient` for programs with an event loop.

Both have the same methods, of which each is one HTTP request unless it says otherwise; answers are
the models of `service.contracts.schemas`, errors those of ``errors.py``.  Neither torch nor what
the server needs is imported.  What belongs here: ``asynchronous/`` has the calls, and
``synchronous/`` is made of it; beside them lies what both share, which waits for nothing.
``hub.py`` gives exported files to a hub.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from service.client.errors import (
    ApiError,
    BadAnswer,
    ClientClosed,
    ClientError,
    DamagedDownload,
    InvalidAddress,
    InvalidArgument,
    JobTimeout,
    NothingLost,
    NotReady,
    Unreachable,
)
from service.client.requests import JobState
from service.client.synchronous import Client

if TYPE_CHECKING:
    from service.client.asynchronous import AsyncClient

__all__ = [
    "ApiError",
    "AsyncClient",
    "BadAnswer",
    "Client",
    "ClientClosed",
    "ClientError",
    "DamagedDownload",
    "InvalidAddress",
    "InvalidArgument",
    "JobState",
    "JobTimeout",
    "NotReady",
    "NothingLost",
    "Unreachable",
]


def __getattr__(name: str) -> Any:
    """Import `AsyncClient` when it is asked for: commands, which start often, never do."""
    if name == "AsyncClient":
        from service.client.asynchronous import AsyncClient

        return AsyncClient
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
