"""Throughput with workers: ``python -m bench.library.executors``, on an idle machine.

64 facts and a suite of 256 cases by this process, by one worker and by two, each with one thread,
in one run.  What two cores can bring is measured beside it: two processes that know nothing of
each other do the same work at the same time.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from bench.report import Row, table
from bench.workload import at_once, median, seconds, suite_facts, workload
from jeep_core import atlas
from jeep_core.evaluation.units import measure_apart
from jeep_core.executors.here import HERE
from jeep_core.executors.processes import Processes
from jeep_core.executors.work import Executor
from jeep_core.models.views import ModelView
from jeep_core.suites import Style
from jeep_core.values.optimiser import optimise

FACTS, CASES = 64, 256


def works(model: str) -> dict[str, Callable[[Executor], object]]:
    """The work that is measured, as functions of the executor."""
    base, facts, objective = workload(model, FACTS)
    view, cases = ModelView(base), suite_facts(CASES)
    return {
        f"{FACTS} facts": lambda by: optimise(view, facts, objective, executor=by),
        f"{CASES} cases": lambda by: measure_apart(view, cases, Style.CONTRAST, executor=by),
    }


def compare(model: str, repeats: int) -> Iterator[Row]:
    """One model: this process, one worker, two workers, and two processes of their own."""
    with Processes(1, niceness=0) as one, Processes(2, niceness=0) as two:
        for what, work in works(model).items():
            by: dict[str, list[float]] = {"here": [], "one": [], "two": [], "apart": []}
            for executor in (one, two):
                work(executor)  # workers start, and have the model
            for _ in range(repeats):
                for name, executor in (("here", HERE), ("one", one), ("two", two)):
                    by[name].append(seconds(partial(work, executor)))
                by["apart"].append(apart(model, what))
            here = by["here"]
            # twice the work in the time that both take
            ratios = {
                "one worker": [a / b for a, b in zip(here, by["one"], strict=True)],
                "two workers": [a / b for a, b in zip(here, by["two"], strict=True)],
                "two processes of their own": [
                    2 * a / b for a, b in zip(here, by["apart"], strict=True)
                ],
            }
            for (who, found), times in zip(
                ratios.items(), (by["one"], by["two"], by["apart"]), strict=True
            ):
                load = f"load {os.getloadavg()[0]:.1f}"
                yield Row(
                    f"{model}, {what}, {who}", median(times), median(here), "s",
                    median(found), min(found), max(found), load,
                )  # fmt: skip


def apart(model: str, what: str) -> float:
    """Seconds in which two processes, both with a model of their own, each do the whole work."""
    return at_once(alone, [(model, what)] * 2)


def alone(model: str, what: str, gate: Any) -> None:
    """The work in a process of its own, begun when all are ready."""
    torch.set_num_threads(1)
    work = works(model)[what]
    gate.wait()
    work(HERE)
    gate.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--models", nargs="+", default=list(atlas.MODELS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(table([]), flush=True)
    for model in args.models:
        for row in compare(model, args.repeats):
            print(table([row]).splitlines()[-1], flush=True)


if __name__ == "__main__":
    main()
