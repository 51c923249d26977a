"""What becomes of work whose cluster goes away; Ray itself is not needed."""

from __future__ import annotations

from multiprocessing import Pipe

import pytest

from jeep_core.errors import NoCluster
from jeep_core.executors.crew import Link, Run
from jeep_core.executors.ray import cluster as cluster_module
from jeep_core.executors.ray.cluster import RayCluster
from jeep_core.executors.work import Bench, Work, keep_nothing

WORK = Work("jeep_core.values.units:unit", "values", None, [1, 2], [9, 9])


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which tests set."""
    found = [1000.0]
    monkeypatch.setattr(cluster_module.time, "monotonic", lambda: found[0])
    return found


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> RayCluster:
    """A cluster that is never reached."""
    monkeypatch.setattr(cluster_module, "find_spec", lambda name: object())
    return RayCluster(1, "10.0.0.1:6379", wait_s=300.0)


def run_of(cluster: RayCluster, number: int) -> Run:
    return Run(cluster, WORK, Bench.__new__(Bench), keep_nothing, number)


def goes_away(cluster: RayCluster, run: Run, *busy: int) -> None:
    for number in busy:
        assert run.ledger.next() == number
    link = Link(object(), Pipe()[0], run=run.number, busy=set(busy))
    cluster._refused(run, link, NoCluster("it is away"))


def comes_back(cluster: RayCluster, run: Run, unit: int) -> None:
    """The cluster is there again, and has done a part of a unit."""
    cluster._look(run)
    run.ledger.progress(unit, 5)
    cluster._look(run)
    assert run.away is None


def test_the_wait_of_one_run_is_not_that_of_the_next(
    cluster: RayCluster, clock: list[float]
) -> None:
    """A run that was cancelled while the cluster was away says nothing of it an hour later."""
    goes_away(cluster, run_of(cluster, 1))
    clock[0] += 3600
    later = run_of(cluster, 2)
    cluster._look(later)
    goes_away(cluster, later)
    cluster._look(later)
    clock[0] += 301
    with pytest.raises(NoCluster, match="stayed away for 300 s"):
        cluster._look(later)


def test_a_unit_that_ends_the_cluster_again_and_again_ends_the_work(
    cluster: RayCluster, clock: list[float]
) -> None:
    """What it has done of a unit before does not count: it is done again from its beginning."""
    run = run_of(cluster, 1)
    for _ in range(2):
        goes_away(cluster, run, 0)
        comes_back(cluster, run, 0)
    goes_away(cluster, run, 0)
    with pytest.raises(NoCluster, match="3 times in the same part"):
        cluster._look(run)


def test_a_cluster_that_goes_away_now_and_then_is_waited_for(
    cluster: RayCluster, clock: list[float]
) -> None:
    run = run_of(cluster, 1)
    goes_away(cluster, run, 0)
    assert run.ledger.next() == 0
    run.ledger.done(0, "found")
    cluster._look(run)
    for _ in range(2):
        goes_away(cluster, run, 1)
        comes_back(cluster, run, 1)
