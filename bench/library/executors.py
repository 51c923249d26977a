"""Throughput with workers: ``python -m bench.library.executors``, on an idle machine.

Facts and a suite of cases by this process, by one worker and by two, each with one thread, in one
run.  All are watched by a caller that may make them give way, as the service's are.  What two cores
can bring (the bound) is measured beside it: two processes that know nothing of each other do the
same work at the same time.  With the models of a folder and other numbers:

    python -m bench.library.executors --models ~/models/smollm2-135m --facts 64 --cases 500

``--ray``: workers are actors of a Ray cluster on this machine (extra ``ray``), not processes.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench.report import Row, table
from bench.workload import askable, at_once, median, seconds, workload
from jeep_core import atlas
from jeep_core.evaluation.units import measure_apart
from jeep_core.executors.crew import Crew
from jeep_core.executors.here import HERE
from jeep_core.executors.processes import Processes
from jeep_core.executors.ray.cluster import RayCluster
from jeep_core.executors.work import Executor
from jeep_core.models.giving_way import giving_way
from jeep_core.models.views import ModelView
from jeep_core.monitor import Monitor
from jeep_core.suites import Style
from jeep_core.values.optimiser import optimise

FACTS, CASES = 64, 256
ONE, TWO, BOUND = "one worker", "two workers", "two processes of their own"


@dataclass(frozen=True)
class Measured:
    """A model, and how many facts and cases; 0 leaves them out."""

    model: str
    facts: int
    cases: int


def works(of: Measured) -> dict[str, Callable[[Executor], object]]:
    """The work that is measured, as functions of the executor."""
    base, facts, objective = workload(of.model, of.facts)
    view, found = ModelView(base), dict[str, Callable[[Executor], object]]()
    watched = Monitor(give_way=goes_on)

    def optimised(by: Executor) -> object:
        with giving_way(view, watched):
            return optimise(view, facts, objective, executor=by, monitor=watched)

    def measured(by: Executor) -> object:
        with giving_way(view, watched):
            return measure_apart(view, cases, Style.CONTRAST, executor=by, monitor=watched)

    if of.facts:
        found[f"{of.facts} facts"] = optimised
    if of.cases:
        cases = askable(base, of.cases)
        found[f"{len(cases)} cases"] = measured
    return found


def goes_on() -> None:
    """Give way to nobody."""


def workers(number: int, ray: bool) -> Crew:
    """So many workers of one thread: processes of this machine, or actors of a Ray cluster."""
    return RayCluster(number) if ray else Processes(number, niceness=0)


def compare(of: Measured, repeats: int, ray: bool) -> Iterator[list[Row]]:
    """One model: this process, one worker, two workers, and two processes of their own."""
    name = Path(of.model).name
    with workers(1, ray) as one, workers(2, ray) as two:
        for what, work in works(of).items():
            by: dict[str, list[float]] = {"here": [], ONE: [], TWO: [], BOUND: []}
            for executor in (one, two):
                work(executor)  # workers start, and have the model
            for _ in range(repeats):
                for who, executor in (("here", HERE), (ONE, one), (TWO, two)):
                    by[who].append(seconds(partial(work, executor)))
                by[BOUND].append(apart(of, what))
            here, found = by.pop("here"), []
            for who, times in by.items():
                # two processes do twice the work in the time that both take
                more = 2 if who == BOUND else 1
                ratios = [more * a / b for a, b in zip(here, times, strict=True)]
                load = f"load {os.getloadavg()[0]:.1f}"
                found.append(Row(
                    f"{name}, {what}, {who}", median(times), median(here), "s",
                    median(ratios), min(ratios), max(ratios), load,
                ))  # fmt: skip
            yield found


def apart(of: Measured, what: str) -> float:
    """Seconds in which two processes, both with a model of their own, each do the whole work."""
    return at_once(alone, [(of, what)] * 2)


def alone(of: Measured, what: str, gate: Any) -> None:
    """The work in a process of its own, begun when all are ready."""
    torch.set_num_threads(1)
    work = works(of)[what]
    gate.wait()
    work(HERE)
    gate.wait()


def share(rows: list[Row]) -> str:
    """How much of what the machine allows two workers reach, in a sentence."""
    _, two, bound = rows
    return (
        f"{two.what}: {two.ratio:.2f} times one process; two processes of their own reach "
        f"{bound.ratio:.2f} here, so it is {two.ratio / bound.ratio:.0%} of the bound"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--models", nargs="+", default=list(atlas.MODELS), help="bundled names, or folders"
    )
    parser.add_argument("--facts", type=int, default=FACTS, help="0: none")
    parser.add_argument("--cases", type=int, default=CASES, help="0: none")
    parser.add_argument("--ray", action="store_true", help="workers are Ray actors")
    args = parser.parse_args()
    torch.set_num_threads(1)
    shares = []
    print(table([]), flush=True)
    for model in args.models:
        for rows in compare(Measured(model, args.facts, args.cases), args.repeats, args.ray):
            print("\n".join(table(rows).splitlines()[2:]), flush=True)
            shares.append(share(rows))
    print("", *shares, sep="\n")


if __name__ == "__main__":
    main()
