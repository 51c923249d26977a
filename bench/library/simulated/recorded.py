"""Times and sizes of units on this machine, one thread, and the file that keeps them.

Seconds are those of the processor, so what else runs beside it counts for less.
"""

from __future__ import annotations

import json
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jeep_core
from bench.library.simulated.events import Job, Unit
from bench.workload import SEED, askable, suite_facts
from jeep_core.editing import resolve_hparams, run_editor, tokenize
from jeep_core.editors.base import EditContext
from jeep_core.evaluation.units import measure_apart
from jeep_core.executors.version import version_of
from jeep_core.executors.wire import pack, unpack
from jeep_core.executors.work import Bench, Keep, Work, function_of, keep_nothing
from jeep_core.executors.workshop import packed
from jeep_core.models.views import ModelView
from jeep_core.moments.of_texts import moments_over
from jeep_core.suites import Style
from jeep_core.values.prefixes import sample_prefixes

FEW = 4
"""Facts of the small edit that tells what is serial in every one, however small."""


@dataclass(frozen=True)
class Round:
    """Units that are handed out together: ``seconds``, ``sent`` and ``received`` (bytes) of each.

    ``version``: bytes of the version that they are worked on; ``handling_s``: in which a result
    is read.
    """

    seconds: Sequence[float]
    sent: Sequence[int]
    received: Sequence[int]
    version: int
    handling_s: float


@dataclass(frozen=True)
class Recorded:
    """One kind of work, in one or more rounds, each of which waits for the one before.

    ``each``: things (facts, cases) of a unit; ``serial_s`` and ``serial_each_s``: what is serial of
    a job, and of each thing of it.
    """

    what: str
    model: str
    thing: str
    each: int
    rounds: Sequence[Round]
    serial_s: float = 0.0
    serial_each_s: float = 0.0

    def jobs(self, things: int, seed: int = SEED) -> list[Job]:
        """A job of so many things, round by round, of units drawn from those recorded."""
        drawn, found = random.Random(seed), []
        for one in self.rounds:
            columns = list(zip(one.seconds, one.sent, one.received, strict=True))
            units = [Unit(*drawn.choice(columns)) for _ in range(-(-things // self.each))]
            found.append(Job(units, 0.0, one.version))
        return [*found, Job((), self.serial_s + self.serial_each_s * things)]

    @property
    def handling_s(self) -> float:
        """Seconds in which a result is read, the longest of all rounds."""
        return max(one.handling_s for one in self.rounds)


def read(path: Path) -> list[Recorded]:
    """The kinds of work that a file keeps."""
    found = json.loads(path.read_text("utf-8"))["works"]
    return [Recorded(**{**one, "rounds": [Round(**r) for r in one["rounds"]]}) for one in found]


def write(path: Path, machine: str, works: Sequence[Recorded]) -> None:
    """Keep kinds of work in a file."""
    record: dict[str, Any] = {"machine": machine, "works": [asdict(one) for one in works]}
    path.write_text(json.dumps(record, indent=1) + "\n", "utf-8")


class Recorder:
    """An executor that does units here and keeps their times and sizes."""

    workers = 1

    def __init__(self) -> None:
        self.rounds: list[Round] = []

    def run(self, work: Work, bench: Bench, keep: Keep = keep_nothing) -> list[Any]:
        """The results of all units, in their order."""
        function, results = function_of(work.task), list[Any]()
        seconds, handled, sent, received = list[float](), list[float](), list[int](), list[int]()
        for number, unit in enumerate(work.units):
            began = time.process_time()
            results.append(function(bench, work.common, unit))
            seconds.append(round(time.process_time() - began, 4))
            message = pack(packed(results[-1]))
            began = time.process_time()
            unpack(message)
            handled.append(time.process_time() - began)
            sent.append(len(pack(unit)))
            received.append(len(message))
            keep(number, results[-1])
        version = len(pack(version_of(bench.view)))
        handling = round(statistics.median(handled), 6)
        self.rounds.append(Round(seconds, sent, received, version, handling))
        return results

    def close(self) -> None:
        """Nothing was started."""


def record(model: str, facts: int, cases: int) -> Iterator[Recorded]:
    """The units of an edit of so many facts with JEEP's preset, and of cases, if any."""
    base, name = jeep_core.load(model), Path(model).name
    hparams: Any = resolve_hparams(model, "jeep", None, {}, base.n_layers, shape=base.shape)
    rows = tokenize(base, suite_facts(facts), sample_prefixes(base, hparams.prefix_count))
    moments = moments_over(base, None)
    moments.ensure(hparams.moment_layers)

    def edit(count: int) -> tuple[Recorder, float, ModelView]:
        by = Recorder()
        context = EditContext(ModelView(base), rows[:count], moments, executor=by)
        spent, (_, view) = _timed(lambda: run_editor("jeep", context, hparams))
        return by, spent - sum(sum(one.seconds) for one in by.rounds), view

    edit(FEW)  # the first one makes the factors
    _, few, _ = edit(FEW)
    by, serial, view = edit(facts)
    more = max(0.0, (serial - few) / max(1, facts - FEW))
    together = -(-facts // len(by.rounds[0].seconds))
    yield Recorded(
        "an edit", name, "facts", together, by.rounds,
        round(max(0.0, few - more * FEW), 4), round(more, 6),
    )  # fmt: skip
    if cases:
        by, some = Recorder(), askable(base, cases)
        measure_apart(view, some, Style.CONTRAST, executor=by)
        together = -(-len(some) // len(by.rounds[0].seconds))
        yield Recorded("an evaluation", name, "cases", together, by.rounds)


def _timed(run: Callable[[], Any]) -> tuple[float, Any]:
    began = time.process_time()
    result = run()
    return time.process_time() - began, result
