"""Worker processes are killed at random in every kind of work that is divided."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from support.executors.random_kills import Struck, under_kills
from support.faults.harness import EVERYTHING

from jeep_core.executors.processes import Processes

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
    under_kills(executor, tmp_path, monkeypatch, KILLS, SEED)
