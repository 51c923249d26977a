"""SIGINT and SIGTERM of ``jeep serve``, while its parts start, run and stop."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Protocol


class Stop(BaseException):
    """SIGINT or SIGTERM arrived while the parts were being started."""


class Server(Protocol):
    """An api's server, as uvicorn has it."""

    should_exit: bool


class Signals:
    """Until `hand_over`, a signal raises `Stop`; afterwards it stops the server, and ``hurry`` is
    called for what may be stopping already.
    """

    def __init__(self) -> None:
        self._server: Server | None = None
        self._hurry: Callable[[], None] | None = None
        self._raised = False

    def hand_over(self, server: Server, hurry: Callable[[], None] | None = None) -> None:
        """The server runs from now on."""
        self._server, self._hurry = server, hurry

    def handle(self, number: int, frame: FrameType | None) -> None:
        """A signal has come."""
        if self._server is not None:
            self._server.should_exit = True
            if self._hurry is not None:
                self._hurry()
        elif not self._raised:  # a second Ctrl-C must not interrupt the stopping
            self._raised = True
            raise Stop


@contextmanager
def stop_signals() -> Iterator[Signals]:
    """Take SIGINT and SIGTERM for the block.  uvicorn raises them again when it has stopped."""
    signals = Signals()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, signals.handle) for number in numbers}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
