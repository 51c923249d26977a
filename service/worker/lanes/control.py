"""The communication of a running job with its surroundings."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from jeep_core.monitor import Monitor
from service.contracts.jobs import Progress

REPORT_EVERY_S = 0.2
LOOK_EVERY_S = 0.5
"""How often the inside of a forward pass checks whether the job is to end."""


@dataclass
class JobControl:
    """Reports a running job's progress and checks for its end: ``checkpoint`` raises to end it."""

    publish: Callable[[Progress], None]
    checkpoint: Callable[[], None]

    def __post_init__(self) -> None:
        self._phase, self._began, self._last, self._first = "", 0.0, 0.0, 0
        self._looked = 0.0

    def progress(self, phase: str, done: int, total: int) -> None:
        """Publish progress, a few times a second at most, with the phase's remaining time.

        What a phase had done when it first reported is not counted in its speed.
        """
        moment = time.monotonic()
        if phase != self._phase:
            self._phase, self._began, self._last, self._first = phase, moment, 0.0, done
        if moment - self._last < REPORT_EVERY_S and done < total:
            return
        self._last = moment
        new = done - self._first
        eta = (moment - self._began) / new * (total - done) if new else None
        rounded = None if eta is None else round(eta, 1)
        self.publish(Progress(phase=phase, done=done, total=total, eta_seconds=rounded))

    def look(self) -> None:
        """``checkpoint`` twice a second at most, for places that are passed far more often.

        One batch of rows may take minutes: a job must end between its matrices, too.
        """
        moment = time.monotonic()
        if moment - self._looked >= LOOK_EVERY_S:
            self._looked = moment
            self.checkpoint()

    @property
    def monitor(self) -> Monitor:
        """The job's surroundings as the library sees them; ``checkpoint`` ends its work."""
        return Monitor(report=self.progress, check=self.checkpoint)
