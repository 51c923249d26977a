"""Actors, and now and then the process that speaks to Ray, are killed at random.

In every kind of work that is divided: ``make cluster-test``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from support.executors.random_kills import Struck, under_kills

from jeep_core.executors.ray.cluster import RayCluster

KILLS = int(os.environ.get("FAULTS_KILLS") or 30)
SEED = int(os.environ.get("FAULTS_SEED") or 22)
ACTORS_FOR_A_DRIVER = 12
"""With the driver ends a cluster on this machine, which takes long to come up again."""


class StruckCluster(Struck, RayCluster):
    """A cluster whose actors may be killed."""

    def victims(self) -> Sequence[tuple[str, int]]:
        actors = [pid for link in self._links for pid in link.others]
        drivers = [link.process.pid for link in self._links if link.ready and link.process.pid]
        if drivers and not self.chance.randrange(ACTORS_FOR_A_DRIVER):
            return [("driver", pid) for pid in drivers]
        return [("actor", pid) for pid in actors]


@pytest.fixture
def executor() -> Iterator[StruckCluster]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with StruckCluster(2, wait_s=240) as found:
        yield found
    torch.set_num_threads(threads)


def test_the_bits_are_those_of_this_process_whoever_is_killed(
    executor: StruckCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    under_kills(executor, tmp_path, monkeypatch, KILLS, SEED)
