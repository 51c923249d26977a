"""Work that is cut into units, what a unit may use, and the protocol of those that do it.

A *unit* is a part of a computation that depends on no other part.  How work is cut depends on the
work alone, never on who does it: sums of floating-point numbers depend on what is computed
together.  So results have the same bytes with any executor and any number of workers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from itertools import pairwise
from typing import Any, Protocol, TypeVar

from jeep_core.models.fused.twin import Twin
from jeep_core.models.views import ModelView
from jeep_core.monitor import NOTHING, Monitor

PACKAGE = "jeep_core."
T = TypeVar("T")


@dataclass(frozen=True)
class Bench:
    """The place where a unit is done: a version of the model, and the caller.

    The view is not written to.  ``twin`` takes its products in bfloat16; its matrices are made at
    first use and kept for the next units.  ``kept`` is empty when a run begins: what one of its
    units leaves there, by name, the next ones in the same process find.
    """

    view: ModelView
    monitor: Monitor = NOTHING
    twin: Twin = field(default=None, repr=False)  # type: ignore[assignment]
    kept: dict[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.twin is None:
            object.__setattr__(self, "twin", Twin(self.view))

    def monitored(self, monitor: Monitor) -> Bench:
        """The same bench for another caller."""
        return replace(self, monitor=monitor)

    def made(self, name: str, make: Callable[[], T]) -> T:
        """The thing that an earlier unit of the run left under a name, else ``make`` makes it."""
        if name not in self.kept:
            self.kept[name] = make()
        found: T = self.kept[name]
        return found


Function = Callable[[Bench, Any, Any], Any]
"""A function that does a unit: it is given a bench, what all units share, and the unit.

What it takes and returns is plain data and tensors, as it may be sent to another machine.
"""


@dataclass(frozen=True)
class Work:
    """Units of one task, none empty.

    ``task`` names a `Function` of this library as ``jeep_core.room.module:function``; ``common`` is
    what all units share; ``sizes`` are what each unit counts in the progress of ``phase``.
    ``streamed``: results are large, so they are given to ``keep`` and not held: ``run`` returns
    None for each, and few units are begun before those in front of them are done.
    """

    task: str
    phase: str
    common: Any
    units: Sequence[Any]
    sizes: Sequence[int]
    streamed: bool = False

    @property
    def total(self) -> int:
        """The sum of what all units count."""
        return sum(self.sizes)


Keep = Callable[[int, Any], None]
"""Called with the number of a unit and its result, in the order of the units."""


def keep_nothing(number: int, result: Any) -> None:
    """Do nothing."""


class Executor(Protocol):
    """One that does work.

    ``workers``: how many units it does at a time.
    """

    @property
    def workers(self) -> int:
        """How many units are done at a time."""
        ...

    def run(self, work: Work, bench: Bench, keep: Keep = keep_nothing) -> list[Any]:
        """The results of all units, in their order, each of one complete run of its unit.

        None for each if they are ``streamed``.

        Raises:
            What the first unit, in their order, has raised that failed.
            Whatever ``monitor.check`` raises.
        """
        ...

    def close(self) -> None:
        """End its processes; it starts them again if it is used again."""
        ...


def function_of(task: str) -> Function:
    """The function that a task names; only those of this library can be named."""
    module, _, name = task.partition(":")
    if not module.startswith(PACKAGE):
        raise ValueError(f"a task is a function of this library, not {task!r}")
    found: Function = getattr(import_module(module), name)
    return found


def evenly(count: int, most: int) -> list[range]:
    """``count`` things in order, cut into as few parts of at most ``most`` as there can be.

    No part is smaller than another by more than one.
    """
    parts = -(-count // most)
    cuts = [count * i // parts for i in range(parts + 1)] if parts else [0]
    return [range(a, b) for a, b in pairwise(cuts)]
