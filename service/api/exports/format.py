"""The record of an export format."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

from service.api.state import ApiState


@dataclass(frozen=True)
class Export:
    """A file that can be sent: ``version`` as ``chunks`` of bytes.

    ``size`` is the number of bytes if it is known before they are made.  Chunks that raise end
    the answer before its declared length, so no client takes it for complete.
    """

    version: str
    chunks: Iterator[bytes]
    size: int | None = None


@dataclass(frozen=True)
class ExportFormat:
    """A format of ``GET /snapshots/{id}/export``.

    ``open`` takes the id of a version, and may have the worker store its tensors again first; its
    errors are answered as those of a route.  ``suffix`` ends the file's name.
    """

    name: str
    suffix: str
    open: Callable[[ApiState, str], Awaitable[Export]]
    media_type: str = "application/octet-stream"
