"""SIGINT and SIGTERM of ``jeep serve`` and ``jeep api``, while parts start, run and stop."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Protocol


class Stop(BaseException):
    """SIGINT or SIGTERM arrived while the parts were being started."""


class Server(Protocol):
    """An api's server, as uvicorn has it; ``signals``: how many it was told to stop by."""

    should_exit: bool
    signals: int


class Signals:
    """Until `hand_over`, the first signal raises `Stop`; afterwards it stops the server.

    Each later one calls ``hurry``, whether the parts are stopping already or will be next.
    """

    def __init__(self) -> None:
        self.hurry: Callable[[], None] = lambda: None
        self._server: Server | None = None
        self._count, self._ends = 0, False

    def hand_over(self, server: Server) -> None:
        """The server runs from now on."""
        self._server = server

    def ends(self) -> None:
        """The parts are being stopped, for whatever reason: no signal interrupts that."""
        self._ends = True

    def handle(self, number: int, frame: FrameType | None) -> None:
        """A signal has come."""
        self._count += 1
        if self._count > 1:
            self.hurry()
        if self._server is not None:
            self._server.should_exit = True
            self._server.signals += 1  # uvicorn, whose handlers may come later, counts on
        elif self._count == 1 and not self._ends:  # nor does a second Ctrl-C interrupt the stopping
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
