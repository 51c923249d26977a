"""The gate between the lanes: editing waits while something is being decoded, but not forever."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Gate:
    """Decoding goes first; under permanent load editing keeps ``share`` of the wall time.

    The generation lane says ``busy`` and ``idle``; the edit lane calls ``pause`` as often as it
    can.  While something is decoded, editing alternates: it works for ``slice_s`` seconds or
    until its next pause, then waits (1 / share - 1) times as long as it has worked, or until
    decoding ends.  ``wait`` and ``clock`` are for tests.
    """

    def __init__(
        self,
        share: float,
        slice_s: float = 0.01,
        wait: Callable[[float], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._idle = threading.Event()
        self._idle.set()
        self._wait, self._clock = wait or self._idle.wait, clock
        self._rest, self._slice_s = 1 / share - 1, slice_s
        self._since: float | None = None

    @property
    def contended(self) -> bool:
        """Whether something is being decoded."""
        return not self._idle.is_set()

    def busy(self) -> None:
        """Something is to be decoded."""
        self._idle.clear()

    def idle(self) -> None:
        """Nothing is left to decode: editing goes on at once."""
        self._idle.set()

    def pause(self) -> None:
        """Wait if it is not editing's turn.  For one thread."""
        if self._idle.is_set():
            self._since = None
            return
        worked = self._slice_s
        if self._since is not None:
            worked = self._clock() - self._since
            if worked < self._slice_s:
                return
        self._wait(worked * self._rest)
        self._since = self._clock()
