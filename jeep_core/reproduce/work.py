"""All runs of a report, one after the other or in several processes.

Processes share the folder of the lab, where optimised values and finished runs are files that are
written whole.  Runs that need the same values are one task, so nothing is computed twice.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed

import torch

from jeep_core.reproduce.runs import Lab, Row, Run, edits_in_turn

Told = Callable[[Run, int, int], None]
"""Called with a run that begins (in several processes: that has ended), cases done, and all."""

_lab: Lab | None = None
"""The lab of a process of its own."""


def work_through(
    lab: Lab,
    runs: Iterable[Run],
    told: Told,
    jobs: int = 1,
    open_lab: Callable[[], Lab] | None = None,
) -> dict[Run, list[Row]]:
    """The rows of every run, each computed once.

    ``jobs``: processes; each makes a lab of its own on the same folder by ``open_lab``, which
    must be picklable, and takes its share of torch's threads.
    """
    tasks = tasks_of(lab, runs)
    total, done = sum(len(run.draw) for task in tasks for run in task), 0
    found: dict[Run, list[Row]] = {}
    if jobs == 1 or open_lab is None:
        for run in (run for task in tasks for run in task):
            told(run, done, total)
            found[run] = lab.rows(run)
            done += len(run.draw)
        return found
    _ensure_moments(lab, tasks)
    threads = max(1, torch.get_num_threads() // jobs)
    pool = ProcessPoolExecutor(
        jobs, multiprocessing.get_context("spawn"), _begin, (open_lab, threads)
    )
    try:
        futures = {pool.submit(_work, task): task for task in tasks}
        for future in as_completed(futures):
            rows, kept = future.result()
            task = futures[future]
            found.update(zip(task, rows, strict=True))
            lab.kept += kept
            done += sum(len(run.draw) for run in task)
            told(task[-1], done, total)
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
        lab.moments.ensure(sorted(layers, key=str), lab.progress)


def _begin(open_lab: Callable[[], Lab], threads: int) -> None:
    global _lab
    torch.set_num_threads(threads)
    _lab = open_lab()


def _work(task: Sequence[Run]) -> tuple[list[list[Row]], int]:
    """Rows of every run, and how many runs were there already."""
    assert _lab is not None
    before = _lab.kept
    rows = [_lab.rows(run) for run in task]
    return rows, _lab.kept - before
