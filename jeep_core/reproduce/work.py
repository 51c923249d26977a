"""All runs of a report, by an executor.

Runs that need the same optimised values are one unit, so nothing is computed twice.  Processes on
one machine share the folder of the lab, where values and finished runs are files that are written
whole: a report that was interrupted goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from jeep_core.errors import WorkersLost
from jeep_core.executors.here import HERE
from jeep_core.executors.work import Bench, Executor, Work
from jeep_core.models.views import ModelView
from jeep_core.monitor import nothing
from jeep_core.reproduce.runs import Lab, LabTerms, Row, Run, edits_in_turn

TASK = "jeep_core.reproduce.work:runs_unit"
PHASE = "runs"
Report = Callable[[Run, int, int], None]
"""Called with a run that is under way, cases done, and cases in all."""


def work_through(
    lab: Lab, runs: Iterable[Run], report: Report, executor: Executor = HERE
) -> dict[Run, list[Row]]:
    """The rows of every run, each computed once, as it was kept or by ``executor``.

    Raises:
        WorkersLost: its processes were killed again and again, as by a host without memory.
        Whatever ``lab.monitor.check`` raises.
    """
    wanted, found = list(dict.fromkeys(runs)), dict[Run, list[Row]]()
    for run in wanted:
        if lab.kept_rows(run) is not None:
            found[run] = lab.rows(run)
    before, total = (sum(len(run.draw) for run in some) for some in (found, wanted))
    tasks = tasks_of(lab, [run for run in wanted if run not in found])
    if not tasks:
        return found

    def tell(phase: str, done: int, _: int) -> None:
        report(_at(tasks, done), before + done, total)

    def keep(number: int, rows: Sequence[list[Row]]) -> None:
        for run, of_run in zip(tasks[number], rows, strict=True):
            lab.keep(run, of_run)
            found[run] = of_run

    _ensure_moments(lab, tasks, executor)
    sizes = [sum(len(run.draw) for run in task) for task in tasks]
    # this process has a lab already
    bench = Bench(ModelView(lab.base), lab.monitor.reporting(tell), kept={LAB: lab})
    try:
        executor.run(Work(TASK, PHASE, lab.terms, tasks, sizes), bench, keep)
    except WorkersLost as error:
        raise WorkersLost(
            f"{error}; the same command goes on from there, and with fewer --workers it takes "
            "less memory"
        ) from None
    return found


LAB = "lab"


def runs_unit(bench: Bench, common: LabTerms, unit: Sequence[Run]) -> list[list[Row]]:
    """The rows of every run of a unit; cases are reported."""
    quiet = bench.monitor.reporting(nothing)
    lab = bench.made(LAB, lambda: common.of(bench.view.base, quiet))
    found, done, total = [], 0, sum(len(run.draw) for run in unit)
    for run in unit:
        bench.monitor.report(PHASE, done, total)
        found.append(lab.rows(run))
        done += len(run.draw)
    return found


def _at(tasks: Sequence[Sequence[Run]], done: int) -> Run:
    """The run that is under way when so many cases are done, if one is after the other."""
    for run in (run for task in tasks for run in task):
        done -= len(run.draw)
        if done < 0:
            return run
    return tasks[-1][-1]


def tasks_of(lab: Lab, runs: Iterable[Run]) -> list[list[Run]]:
    """Runs by what they share, those with most cases first; facts edited in turn before all."""
    groups: dict[str, list[Run]] = {}
    for run in dict.fromkeys(runs):
        groups.setdefault(lab.shares(run), []).append(run)

    def size(task: Sequence[Run]) -> tuple[bool, int]:
        return edits_in_turn(task[0].setting), sum(len(run.draw) for run in task)

    return sorted(groups.values(), key=size, reverse=True)


def _ensure_moments(lab: Lab, tasks: Iterable[Sequence[Run]], executor: Executor) -> None:
    """Second moments of all layers in one pass, by all processes."""
    settings = [run.setting.hparams for task in tasks for run in task]
    layers = {layer for hparams in settings if hparams for layer in hparams.moment_layers}
    if layers:
        lab.moments.ensure(sorted(layers, key=str), lab.monitor, executor)
