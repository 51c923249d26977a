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

from bench.library.simulated.events import Job, Unit
from bench.workload import SEED, askable, suite_facts, workload
from jeep_core.editing import resolve_hparams
from jeep_core.evaluation.trials import Trials
from jeep_core.evaluation.units import CASES_TOGETHER, measure_unit
from jeep_core.executors.version import version_of
from jeep_core.executors.wire import pack, unpack
from jeep_core.executors.work import Bench
from jeep_core.executors.workshop import packed
from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView
from jeep_core.moments.of_texts import moments_over
from jeep_core.suites import Style
from jeep_core.values.prefixes import sample_prefixes
from jeep_core.values.units import optimise_unit, work_of

FEW, PREFIXES = 8, 6


@dataclass(frozen=True)
class Recorded:
    """Units of one kind of work.

    ``each``: things (facts, cases) of a unit; ``seconds``, ``sent`` and ``received`` (bytes) by
    unit; ``version``: bytes; ``handling_s``: in which a result is read and a unit written;
    ``serial_s`` and ``serial_each_s``: what is serial of a job, and of each thing of it.
    """

    what: str
    model: str
    thing: str
    each: int
    seconds: Sequence[float]
    sent: Sequence[int]
    received: Sequence[int]
    version: int
    handling_s: float
    serial_s: float
    serial_each_s: float

    def job(self, things: int, seed: int = SEED) -> Job:
        """A job of so many things, whose units are drawn from those that were recorded."""
        drawn = random.Random(seed)
        units = []
        for _ in range(-(-things // self.each)):
            i = drawn.randrange(len(self.seconds))
            units.append(Unit(self.seconds[i], self.sent[i], self.received[i]))
        return Job(units, self.serial_s + self.serial_each_s * things, self.version)


def read(path: Path) -> list[Recorded]:
    """The kinds of work that a file keeps."""
    return [Recorded(**one) for one in json.loads(path.read_text("utf-8"))["works"]]


def write(path: Path, machine: str, works: Sequence[Recorded]) -> None:
    """Keep kinds of work in a file."""
    record: dict[str, Any] = {"machine": machine, "works": [asdict(one) for one in works]}
    path.write_text(json.dumps(record, indent=1) + "\n", "utf-8")


def record(model: str, facts: int, cases: int) -> Iterator[Recorded]:
    """The units of an edit of ``facts`` facts with JEEP's preset, and of ``cases`` cases."""
    base, rows, objective = workload(model, facts, PREFIXES)
    view, name = ModelView(base), Path(model).name
    work = work_of(rows, objective, base.device.type, None, None)
    optimise_unit(Bench(view), work.common, work.units[0])  # the first call warms up
    times = _units(optimise_unit, view, work.common, work.units)
    edited, (serial, serial_each) = _edited(model, base, facts)
    common = {"model": name, "version": len(pack(version_of(edited)))}
    each = -(-facts // len(work.units))
    yield Recorded(
        "an edit", thing="facts", each=each, serial_s=serial, serial_each_s=serial_each,
        **common, **times,
    )  # fmt: skip
    some = askable(base, cases)
    asked = [some[i : i + CASES_TOGETHER] for i in range(0, len(some), CASES_TOGETHER)]
    times = _units(measure_unit, edited, Style.CONTRAST, asked)
    each = min(CASES_TOGETHER, len(some))
    yield Recorded(
        "an evaluation", thing="cases", each=each, serial_s=0.0, serial_each_s=0.0,
        **common, **times,
    )  # fmt: skip


def _edited(model: str, base: LoadedModel, facts: int) -> tuple[ModelView, tuple[float, float]]:
    """An edited version; what of an edit is serial: seconds of each, and of each fact.

    Reading keys, solving and writing, of a few facts and of all, with values that are there.
    """
    hparams: Any = resolve_hparams(model, "jeep", None, {}, base.n_layers, shape=base.shape)
    prefixes = sample_prefixes(base, PREFIXES)
    trials = Trials(base, suite_facts(facts), moments_over(base, None), prefixes)
    trials.edit("jeep", hparams, range(facts))  # values, moments and factors are there now
    found = []
    for count in (FEW, facts):
        began = time.process_time()
        view, _ = trials.edit("jeep", hparams, range(count))
        found.append(time.process_time() - began)
    each = max(0.0, (found[1] - found[0]) / max(1, facts - FEW))
    return view, (round(max(0.0, found[1] - each * facts), 4), round(each, 6))


def _units(
    function: Callable[..., Any], view: ModelView, common: Any, units: Sequence[Any]
) -> dict[str, Any]:
    """Processor seconds of units, bytes of them and their results, seconds of handling one."""
    found: dict[str, Any] = {"seconds": [], "sent": [], "received": []}
    handled = []
    for unit in units:
        began = time.process_time()
        result = function(Bench(view), common, unit)
        found["seconds"].append(round(time.process_time() - began, 4))
        message = pack(packed(result))
        began = time.process_time()
        unpack(message)
        found["sent"].append(len(pack(unit)))
        handled.append(time.process_time() - began)
        found["received"].append(len(message))
    return {**found, "handling_s": round(statistics.median(handled), 6)}
