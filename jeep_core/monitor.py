"""The caller of a long computation: it is reported to, may end the work and is given way."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from jeep_core.errors import Cancelled

Report = Callable[[str, int, int], None]
"""Called with a phase, the steps of it that are done, and all its steps."""


def nothing(*_: object) -> None:
    """Do nothing; the default of every part of a `Monitor`."""


@dataclass(frozen=True)
class Monitor:
    """The caller of a long computation, as the computation sees it.

    Every function of the library that may take long has an argument ``monitor`` and calls its
    three parts; a part that is not given does nothing.

    - ``report(phase, done, total)`` receives how far the computation is.
    - ``check()`` is called between steps and raises an exception to end the computation, such
      as `Cancelled` (`stop_if` makes one from a question).
    - ``give_way()`` is called before every matrix of every block, forward and backward; it may
      block, to leave the processor to others, and raise as ``check`` may.
    """

    report: Report = nothing
    check: Callable[[], None] = nothing
    give_way: Callable[[], None] = nothing

    def reporting(self, report: Report) -> Monitor:
        """The same caller with another ``report``."""
        return replace(self, report=report)


NOTHING = Monitor()
"""A caller that is not interested."""


def stop_if(asked: Callable[[], bool]) -> Callable[[], None]:
    """A ``check`` that raises `Cancelled` once ``asked`` answers True."""

    def check() -> None:
        if asked():
            raise Cancelled("cancelled on request")

    return check


class Clock:
    """Wall time by phase, in seconds."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, phase: str) -> None:
        """End a phase."""
        now = time.monotonic()
        self.seconds[phase] = round(now - self._last, 4)
        self._last = now
