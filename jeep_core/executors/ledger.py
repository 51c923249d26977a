"""The books of one run: which units wait, which are being done, what each has given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jeep_core.errors import WorkersLost
from jeep_core.executors.work import Keep, Work
from jeep_core.text.counting import counted

TRIES = 3
"""How often a unit is begun whose worker dies: the third time the unit may be the reason."""
EXIT = "exit code"
"""Beginning of the reason of a worker that ended by itself."""


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
        # of each unit why its workers ended; None for one that gave it up
        self._lost: list[list[str | None]] = [[] for _ in work.units]
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
        self._again(number, why)

    def returned(self, number: int) -> None:
        """A worker gave a unit up though nobody had asked: as if it were lost, not for ever."""
        self._again(number, None)

    def _again(self, number: int, why: str | None) -> None:
        self._lost[number].append(why)
        if len(self._lost[number]) < self._tries:
            self.back(number)
        else:
            self.failed(number, WorkersLost(_without_result(self._lost[number])))

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


def _without_result(lost: Sequence[str | None]) -> str:
    """The sentence for a unit whose workers ended for these reasons, or gave it up (None)."""
    ended = [why for why in lost if why is not None]
    gave_up = len(lost) - len(ended)
    if not ended:
        return (
            f"{counted(gave_up, 'worker')} gave up the same part of the work though nobody had "
            "asked for it: this is a fault of the program; the work can be done without workers"
        )
    more = f", and {counted(gave_up, 'worker')} gave it up unasked" if gave_up else ""
    reasons = ", ".join(dict.fromkeys(ended))
    what = f"{counted(len(ended), 'worker')} ended in the same part of the work ({reasons}){more}"
    return f"{what}: {advice(*ended)}"


def advice(*reasons: str) -> str:
    """How workers that ended for these reasons can be helped; memory comes first unless each ended
    by itself.
    """
    if all(why.startswith(EXIT) for why in reasons):
        return (
            "a library in it may have ended the process: look at what it wrote last to the log; "
            "where that is nothing, it may have too little memory"
        )
    return "a worker may have too little memory: look at its limit and the system's log"
