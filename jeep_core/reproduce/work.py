"""All runs of a report, one after the other or in several processes.

Processes share the folder of the lab, where optimised values and finished runs are files that are
written whole.  Runs that need the same values are one task, so nothing is computed twice.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.sharedctypes import Synchronized

import torch

from jeep_core.errors import JeepError
from jeep_core.reproduce.runs import Lab, Row, Run, edits_in_turn

Report = Callable[[Run, int, int], None]
"""Called with a run that is under way, cases done, and cases in all."""
POLL_S = 1.0
PRELOADED = [__name__, "transformers.masking_utils", "transformers.modeling_utils"]
"""Imported once for all processes: what every model of transformers needs takes seconds."""

_lab: Lab | None = None
_done: Synchronized[int] | None = None
"""The lab of one process of several, and the cases that all of them have done."""


def work_through(
    lab: Lab,
    runs: Iterable[Run],
    report: Report,
    jobs: int = 1,
    open_lab: Callable[[], Lab] | None = None,
) -> dict[Run, list[Row]]:
    """The rows of every run, each computed once.

    ``jobs``: processes; each makes its own lab on the same folder by ``open_lab``, which
    must be picklable, and takes its share of torch's threads.
    """
    tasks = tasks_of(lab, runs)
    total = sum(len(run.draw) for task in tasks for run in task)
    if jobs > 1 and open_lab is not None:
        return _share(lab, tasks, lambda run, done: report(run, done, total), jobs, open_lab)
    done, found = 0, {}
    for run in (run for task in tasks for run in task):
        report(run, done, total)
        found[run] = lab.rows(run)
        done += len(run.draw)
    return found


def _share(
    lab: Lab,
    tasks: Sequence[list[Run]],
    report: Callable[[Run, int], None],
    jobs: int,
    open_lab: Callable[[], Lab],
) -> dict[Run, list[Row]]:
    """Several processes take the tasks in turn.  All are forked from one that has imported torch
    and the rest once and has done nothing else.

    Raises:
        JeepError: one of them was killed, as by a host without memory.
    """
    _ensure_moments(lab, tasks)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    done = context.Value("q", 0)
    threads = max(1, torch.get_num_threads() // jobs)
    pool = ProcessPoolExecutor(jobs, context, _begin, (open_lab, threads, done))
    found: dict[Run, list[Row]] = {}
    try:
        futures = {pool.submit(_work, task): task for task in tasks}
        waiting = set(futures)
        while waiting:
            ended, waiting = wait(waiting, POLL_S, FIRST_COMPLETED)
            for future in ended:
                rows, kept = future.result()
                found.update(zip(futures[future], rows, strict=True))
                lab.kept += kept
            now = next((task for future, task in futures.items() if future.running()), tasks[-1])
            report(now[0], done.value)
    except BrokenProcessPool:
        raise JeepError(
            "a process was killed, perhaps for want of memory: the same command goes on from "
            "there, and with fewer --jobs it takes less"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)
    return found


def tasks_of(lab: Lab, runs: Iterable[Run]) -> list[list[Run]]:
    """Runs by what they share, those with most cases first; facts edited in turn before all."""
    groups: dict[str, list[Run]] = {}
    for run in dict.fromkeys(runs):
        groups.setdefault(lab.shares(run), []).append(run)

    def size(task: Sequence[Run]) -> tuple[bool, int]:
        return edits_in_turn(task[0].setting), sum(len(run.draw) for run in task)

    return sorted(groups.values(), key=size, reverse=True)


def _ensure_moments(lab: Lab, tasks: Iterable[Sequence[Run]]) -> None:
    """Second moments of all layers in one pass, with all threads."""
    settings = [run.setting.hparams for task in tasks for run in task]
    layers = {layer for hparams in settings if hparams for layer in hparams.moment_layers}
    if layers:
        lab.moments.ensure(sorted(layers, key=str), lab.monitor)


def _begin(open_lab: Callable[[], Lab], threads: int, done: Synchronized[int]) -> None:
    global _lab, _done
    torch.set_num_threads(threads)
    _lab, _done = open_lab(), done


def _work(task: Sequence[Run]) -> tuple[list[list[Row]], int]:
    """Rows of every run, and how many runs were there already."""
    assert _lab is not None
    assert _done is not None
    before, rows = _lab.kept, []
    for run in task:
        rows.append(_lab.rows(run))
        with _done.get_lock():
            _done.value += len(run.draw)
    return rows, _lab.kept - before
