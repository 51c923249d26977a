"""The gate between the lanes: decoding goes first, then edits, then jobs that read."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from jeep_core.monitor import nothing

LOOK_S = 0.25
"""How often a job that waits for an edit or for decoding checks whether it is to end."""


class Turn:
    """One lane's turns beside decoding; it keeps ``share`` of the time under permanent load.

    While something is decoded, the lane alternates: it works for ``slice_s`` seconds or until
    its next ``take``, then waits (1 / share - 1) times as long as it has worked, or until
    ``idle`` is set.  For one thread.
    """

    def __init__(
        self,
        idle: threading.Event,
        share: float,
        slice_s: float = 0.01,
        wait: Callable[[float], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._idle, self._wait, self._clock = idle, wait or idle.wait, clock
        self._rest, self._slice_s = 1 / share - 1, slice_s
        self._since: float | None = None

    def take(self, look: Callable[[], object] = nothing) -> None:
        """Wait if it is not this lane's turn; ``look`` is called periodically and may raise.

        After a matrix of a large model the wait may be minutes.
        """
        if self._idle.is_set():
            self._since = None
            return
        worked = self._slice_s
        if self._since is not None:
            worked = self._clock() - self._since
            if worked < self._slice_s:
                return
        left, self._since = worked * self._rest, None
        # a gap in decoding ends the wait, even if it is over again
        while left > 0 and not (self._wait(min(left, LOOK_S)) or self._idle.is_set()):
            left -= LOOK_S
            if left > 0:
                look()
        self._since = self._clock()


class Gate:
    """Decoding goes first; under permanent load editing keeps ``share`` of the wall time.

    The generation lane calls ``busy`` and ``idle``; the edit lane calls ``pause`` as often as it
    can and runs its jobs in ``writing``.  The read lane calls ``pause_reading`` as often as it
    can and ``wait_for_edit`` where it can wait long.  ``wait`` and ``clock`` are for tests.
    """

    def __init__(
        self,
        share: float,
        slice_s: float = 0.01,
        wait: Callable[[float], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
        read_share: float | None = None,
    ) -> None:
        self._idle, self._unwritten = threading.Event(), threading.Event()
        self._idle.set()
        self._unwritten.set()
        self._editing = Turn(self._idle, share, slice_s, wait, clock)
        self._reading = Turn(self._idle, read_share or share, slice_s, wait, clock)

    @property
    def contended(self) -> bool:
        """Whether something is being decoded."""
        return not self._idle.is_set()

    def busy(self) -> None:
        """Record that something is to be decoded."""
        self._idle.clear()

    def idle(self) -> None:
        """Record that nothing is left to decode, so that editing continues immediately."""
        self._idle.set()

    def pause(self, look: Callable[[], object] = nothing) -> None:
        """Wait if it is not editing's turn; ``look`` as of `Turn.take`.  For one thread."""
        self._editing.take(look)

    def pause_reading(self, look: Callable[[], object] = nothing) -> None:
        """Wait if it is not the read lane's turn beside decoding; ``look`` as of `Turn.take`.

        For one thread.
        """
        self._reading.take(look)

    def another_turn(self, share: float) -> Turn:
        """Turns beside decoding for one more thread, which keeps ``share`` of its time."""
        return Turn(self._idle, share)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Mark that a job that writes a version is running, for the block."""
        self._unwritten.clear()
        try:
            yield
        finally:
            self._unwritten.set()

    def wait_for_edit(self, look: Callable[[], None]) -> None:
        """Wait until no edit is running; ``look`` is called periodically and may raise."""
        while not self._unwritten.wait(LOOK_S):
            look()
