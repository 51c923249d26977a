"""Every kind of work: the same bits with any executor, counted, ended, done again."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.executors import kinds_of_work
from support.executors.kinds_of_work import CASES, KINDS
from support.library import tiny
from support.library.closed_form import MEMIT, PREFIXES
from support.library.shared_work import edited

from jeep_core.errors import Cancelled
from jeep_core.evaluation.trials import Trials
from jeep_core.executors.processes import Processes
from jeep_core.models.loading import LoadedModel
from jeep_core.moments import sums as moment_sums
from jeep_core.moments import unfinished
from jeep_core.moments.cache import Moments
from jeep_core.monitor import NOTHING, Monitor


@pytest.fixture(autouse=True)
def _small_units() -> None:
    """Workers that edit by themselves cut facts as they always do, and so does this process."""


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds_of_work.cut_into_small_parts(monkeypatch)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_any_number_of_workers_gives_the_same_bits_and_says_how_far_it_is(
    model: LoadedModel,
    crews: dict[int, Processes],
    here: Callable[[str], Any],
    tmp_path: Path,
    kind: str,
    count: int,
) -> None:
    work, phase = KINDS[kind]
    expected, told, paused = here(kind), list[tuple[int, int]](), list[int]()

    def report(name: str, done: int, total: int) -> None:
        if name == phase:
            told.append((done, total))

    monitor = Monitor(report, give_way=lambda: paused.append(1))
    assert work(model, crews[count], monitor, tmp_path) == expected
    assert paused, "the caller was asked to make way"
    if told or count > 1:  # one worker tries one setting at a time, and says nothing of its own
        last = told[-1][1]
        assert told[-1][0] == last > 1
        of_the_last = [done for done, total in told if total == last]
        assert len(of_the_last) > 2


@pytest.mark.parametrize("kind", KINDS)
def test_work_that_is_cancelled_or_whose_worker_dies_is_done_again(
    model: LoadedModel,
    crews: dict[int, Processes],
    here: Callable[[str], Any],
    tmp_path: Path,
    kind: str,
) -> None:
    (work, phase), executor, begun = KINDS[kind], crews[2], list[int]()

    def report(name: str, done: int, total: int) -> None:
        if name == phase:
            begun.append(done)

    def check() -> None:
        if begun:
            raise Cancelled("enough")

    with pytest.raises(Cancelled, match="enough"):
        work(model, executor, Monitor(report, check), tmp_path / "cancelled")
    whole = 0
    while len(executor.pids()) < 2:  # one that was killed before may not be replaced yet
        assert work(model, executor, NOTHING, tmp_path / f"whole {whole}") == here(kind)
        whole += 1
    before, struck = executor.pids(), list[int]()

    def strike(name: str, done: int, total: int) -> None:
        if name == phase and not struck:
            struck.append(before[0])
            os.kill(before[0], signal.SIGKILL)

    assert work(model, executor, Monitor(strike), tmp_path / "struck") == here(kind)
    assert struck
    assert before[1] in executor.pids(), "the other one had been told to stop, not ended"


def test_a_pass_that_was_ended_goes_on_from_the_blocks_that_workers_have_summed(
    model: LoadedModel,
    crews: dict[int, Processes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(unfinished, "SAVE_EVERY_S", 0.0)
    monkeypatch.setattr(unfinished, "SAVING_SHARE", 1e9)
    whole = Moments(model, tiny.TEXTS, 900).sums([1])

    def report(name: str, done: int, total: int) -> None:
        if done > total // 2:
            raise Cancelled("enough")

    moments = Moments(model, tiny.TEXTS, 900, tmp_path)
    with pytest.raises(Cancelled):
        moments.sums([1], monitor=Monitor(report), executor=crews[2])
    told = list[int]()
    again = moments.sums([1], monitor=Monitor(lambda _, done, total: told.append(done)))
    assert told[0] > 0
    assert again.sums[1].numpy().tobytes() == whole.sums[1].numpy().tobytes()


def test_moments_of_an_edit_are_taken_by_its_executor(
    model: LoadedModel, crews: dict[int, Processes], monkeypatch: pytest.MonkeyPatch
) -> None:
    by: list[str] = []
    run = Processes.run

    def named(self: Processes, work: Any, *rest: Any) -> Any:
        by.append(work.task)
        return run(self, work, *rest)

    monkeypatch.setattr(Processes, "run", named)
    trials = Trials(model, CASES[:2], Moments(model, tiny.TEXTS), PREFIXES, executor=crews[1])
    trials.run("memit", MEMIT, range(2))
    assert by[0] == moment_sums.TASK
    by.clear()
    edited(model, Moments(model, tiny.TEXTS), "memit", crews[1])
    assert by[0] == moment_sums.TASK
