"""Worker processes are killed at random in every kind of work that is divided."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from support.executors import kinds_of_work
from support.executors.random_kills import Struck, jobs, strike_at_random
from support.faults.harness import EVERYTHING
from support.library import shared_work

from jeep_core.executors.processes import Processes
from jeep_core.values import units

KILLS = int(os.environ.get("FAULTS_KILLS") or (30 if EVERYTHING else 8))
SEED = int(os.environ.get("FAULTS_SEED") or 22)


class StruckProcesses(Struck, Processes):
    """Processes any of which may be killed, also while it starts."""

    def victims(self) -> Sequence[tuple[str, int]]:
        started = [link.process.pid for link in self._links if link.process.pid is not None]
        return [("process", pid) for pid in started]


@pytest.fixture
def executor() -> Iterator[StruckProcesses]:
    with StruckProcesses(2, niceness=0) as found:
        yield found


def test_the_bits_are_those_of_this_process_whoever_is_killed(
    executor: StruckProcesses, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds_of_work.cut_into_small_parts(monkeypatch)
    monkeypatch.setattr(units, "unit_facts", lambda device: 2)
    model = shared_work.model_in(tmp_path / "tiny")
    all_jobs = jobs(model, shared_work.moments_of(model), tmp_path)
    print(strike_at_random(executor, all_jobs, KILLS, SEED))
    assert len(executor.struck) == KILLS
