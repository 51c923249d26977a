"""The books of one run: which units wait, which are being done, what each has given."""

from __future__ import annotations

from typing import Any

from jeep_core.errors import WorkersLost
from jeep_core.executors.work import Keep, Work

TRIES = 3
"""How often a unit is begun whose worker dies: the third time the unit may be the reason."""


class Ledger:
    """Every unit has one result: that of its first complete run.

    After a failure only the units before it are still done, so that the error that is raised is
    that of the first unit that fails, whoever is quicker.  Of streamed work no more than ``ahead``
    results are held: those of units that were done before one in front of them.
    """

    def __init__(self, work: Work, keep: Keep, tries: int = TRIES, ahead: int = 1) -> None:
        self.work, self._keep, self._tries = work, keep, tries
        self._ahead = ahead if work.streamed else len(work.units)
        self._waiting = list(range(len(work.units)))
        self._lost = [0] * len(work.units)
        self._part = [0] * len(work.units)
        self._results: dict[int, Any] = {}
        self._kept = 0
        self._failed: tuple[int, BaseException] | None = None

    def next(self) -> int | None:
        """The first unit that waits and may be begun; it counts as begun."""
        while self._waiting and self._waiting[0] <= self._kept + self._ahead:
            number = self._waiting.pop(0)
            if self._wanted(number):
                return number
        return None

    @property
    def waiting(self) -> int:
        """How many units nobody has begun."""
        return sum(map(self._wanted, self._waiting))

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        end = len(self.work.units) if self._failed is None else self._failed[0]
        return all(number in self._results for number in range(end))

    def _wanted(self, number: int) -> bool:
        return number not in self._results and (self._failed is None or number < self._failed[0])

    def progress(self, number: int, done: int) -> None:
        """So much of a unit is done."""
        self._part[number] = min(done, self.work.sizes[number])

    def done(self, number: int, result: Any) -> None:
        """A unit's result; one that is there already stays."""
        if number in self._results:
            return
        self._results[number] = result
        self._part[number] = self.work.sizes[number]
        while self._failed is None and self._kept in self._results:
            self._keep(self._kept, self._results[self._kept])
            if self.work.streamed:
                self._results[self._kept] = None
            self._kept += 1

    def failed(self, number: int, error: BaseException) -> None:
        """A unit has raised an exception."""
        if self._failed is None or number < self._failed[0]:
            self._failed = number, error

    def back(self, number: int) -> None:
        """Let a begun unit wait again, through no fault of its own."""
        if number not in self._results:
            self._part[number] = 0
            self._waiting = sorted({*self._waiting, number})

    def lost(self, number: int, why: str) -> None:
        """The worker of a unit is gone: the unit waits again, unless it was begun too often."""
        self._lost[number] += 1
        if self._lost[number] < self._tries:
            self.back(number)
            return
        times = f"{self._tries} workers" if self._tries > 1 else "the worker"
        what = f"{times} ended in the same part of the work ({why})"
        advice = "the memory of a worker may be too small: look at its limit and the system's log"
        self.failed(number, WorkersLost(f"{what}: {advice}"))

    @property
    def left(self) -> list[int]:
        """The units without a result."""
        return [n for n in range(len(self.work.units)) if n not in self._results]

    @property
    def progressed(self) -> int:
        """How much of all units is done."""
        return sum(self._part)

    def results(self) -> list[Any]:
        """The results in order.

        Raises:
            What the first unit has raised that failed.
        """
        if self._failed is not None:
            raise self._failed[1]
        return [self._results[number] for number in range(len(self.work.units))]
