"""A unit of an evaluation: cases that are asked together."""

from __future__ import annotations

from collections.abc import Sequence

from jeep_core.evaluation.metrics import CaseRecord, measure
from jeep_core.executors.here import HERE
from jeep_core.executors.work import Bench, Executor, Keep, Work, keep_nothing
from jeep_core.models.views import ModelView
from jeep_core.monitor import NOTHING, Monitor
from jeep_core.spec.facts import Fact
from jeep_core.suites import Style

TASK = "jeep_core.evaluation.units:measure_unit"
CASES_TOGETHER = 128
"""Cases of a unit, the last one excepted: cut from the first case on, so that a job that goes on
after some of them cuts the rest in the same way."""


def measure_apart(
    view: ModelView,
    cases: Sequence[Fact],
    style: Style,
    *,
    executor: Executor = HERE,
    monitor: Monitor = NOTHING,
    keep: Keep = keep_nothing,
) -> list[CaseRecord]:
    """The record of every case, by units that ``executor`` does; cases are reported as "score".

    ``keep`` is given each unit's records, in the order of the cases.

    Raises:
        JeepError: a prompt cannot be asked; see ``fitting``.
        WorkersLost, NoCluster: the executor's workers are gone.
        Whatever ``monitor.check`` raises.
    """
    units = [
        list(cases[start : start + CASES_TOGETHER])
        for start in range(0, len(cases), CASES_TOGETHER)
    ]
    work = Work(TASK, "score", style, units, [len(unit) for unit in units])
    found = executor.run(work, Bench(view, monitor), keep)
    return [record for records in found for record in records]


def measure_unit(bench: Bench, common: Style, unit: Sequence[Fact]) -> list[CaseRecord]:
    """The records of a unit's cases; cases, not rows, are reported."""
    report = bench.monitor.report

    def in_cases(phase: str, done: int, rows: int) -> None:
        report(phase, done * len(unit) // rows, len(unit))

    return measure(bench.view, unit, common, bench.monitor.reporting(in_cases))
