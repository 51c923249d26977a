"""What becomes of work whose cluster goes away; Ray itself is not needed."""

from __future__ import annotations

from multiprocessing import Pipe

import pytest

from jeep_core.errors import NoCluster, WorkersLost
from jeep_core.executors.crew import Run
from jeep_core.executors.link import Link
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


def ready(cluster: RayCluster, run: Run) -> Link:
    """The cluster has an actor that is ready."""
    link = connected(cluster, run)
    cluster._told(run, link, "ready", 4711)
    cluster._look(run)
    return link


def connected(cluster: RayCluster, run: Run) -> Link:
    """There is a process that speaks to the cluster, or tries to."""
    link = Link(object(), Pipe()[0], run=run.number)
    cluster._links = [link]
    return link


def goes_away(cluster: RayCluster, run: Run, link: Link, *busy: int) -> None:
    for number in busy:
        assert run.ledger.next() == number
    link.busy = set(busy)
    cluster._told(run, link, "refused", NoCluster("it is away"))
    assert link.leaving


def test_the_wait_of_one_run_is_not_that_of_the_next(
    cluster: RayCluster, clock: list[float]
) -> None:
    """A run that was cancelled while the cluster was away says nothing of it an hour later."""
    first = run_of(cluster, 1)
    goes_away(cluster, first, ready(cluster, first))
    cluster._look(first)
    clock[0] += 3600
    later = run_of(cluster, 2)
    cluster._look(later)
    goes_away(cluster, later, connected(cluster, later))
    clock[0] += 299
    cluster._look(later)
    clock[0] += 2
    with pytest.raises(NoCluster, match="it is away; no worker was ready for 300 s"):
        cluster._look(later)


def test_a_cluster_that_never_answers_is_not_waited_for_any_longer(
    cluster: RayCluster, clock: list[float]
) -> None:
    """Ray's own attempt to join it may have no end."""
    run = run_of(cluster, 1)
    link = connected(cluster, run)
    cluster._look(run)
    clock[0] += 301
    with pytest.raises(
        NoCluster, match=r"at 10\.0\.0\.1:6379 does not answer; no worker was ready"
    ):
        cluster._look(run)
    assert link.leaving, "the process that tries is ended"


def test_a_cluster_without_room_is_waited_for_once_from_the_beginning_of_the_run(
    cluster: RayCluster, clock: list[float]
) -> None:
    run = run_of(cluster, 1)
    cluster._look(run)
    clock[0] += 290
    cluster._told(run, connected(cluster, run), "waits", "it has 1 CPU")
    cluster._look(run)
    clock[0] += 11
    with pytest.raises(NoCluster, match="it has 1 CPU; no worker was ready for 300 s"):
        cluster._look(run)


def test_a_cluster_that_is_back_is_given_the_time_that_its_work_takes(
    cluster: RayCluster, clock: list[float]
) -> None:
    """A unit may say nothing for longer than the cluster is waited for."""
    run = run_of(cluster, 1)
    goes_away(cluster, run, ready(cluster, run), 0)
    cluster._look(run)
    clock[0] += 200
    ready(cluster, run)
    clock[0] += 3600
    cluster._look(run)


def test_one_that_has_lost_its_last_actor_is_waited_for_from_then_on(
    cluster: RayCluster, clock: list[float]
) -> None:
    run = run_of(cluster, 1)
    link = ready(cluster, run)
    clock[0] += 3600
    cluster._told(run, link, "waits", "its machines are gone")
    cluster._look(run)
    clock[0] += 299
    cluster._look(run)
    clock[0] += 2
    with pytest.raises(NoCluster, match="its machines are gone"):
        cluster._look(run)


def test_a_unit_that_ends_the_cluster_again_and_again_ends_the_work(
    cluster: RayCluster, clock: list[float]
) -> None:
    """What it has done of a unit before does not count: it is done again from its beginning."""
    run = run_of(cluster, 1)
    for _ in range(3):
        cluster._look(run)
        link = ready(cluster, run)
        goes_away(cluster, run, link, 0)
        # as long as it is not back it cannot go away once more
        goes_away(cluster, run, connected(cluster, run))
    with pytest.raises(NoCluster, match="3 times in the same part"):
        cluster._look(run)


def test_a_cluster_that_goes_away_now_and_then_is_waited_for(
    cluster: RayCluster, clock: list[float]
) -> None:
    run = run_of(cluster, 1)
    goes_away(cluster, run, ready(cluster, run), 0)
    cluster._look(run)
    link = ready(cluster, run)
    assert run.ledger.next() == 0
    run.ledger.done(0, "found")
    for _ in range(2):
        goes_away(cluster, run, link, 1)
        cluster._look(run)
        link = ready(cluster, run)
    cluster._look(run)


def test_a_unit_that_ends_its_actors_is_the_reason_and_not_the_cluster(
    cluster: RayCluster, clock: list[float]
) -> None:
    run = run_of(cluster, 1)
    link = ready(cluster, run)
    for _ in range(3):
        assert run.ledger.next() == 0
        cluster._told(run, link, "lost", 1, 0, "the node was low on memory")
        cluster._look(run)
    with pytest.raises(WorkersLost, match=r"low on memory\): a worker may have too little memory"):
        run.ledger.results()
