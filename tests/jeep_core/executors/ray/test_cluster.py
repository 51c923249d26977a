"""What becomes of work whose cluster goes away; Ray itself is not needed."""

from __future__ import annotations

from collections.abc import Iterator
from multiprocessing import Pipe
from pathlib import Path

import pytest
import torch

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


@pytest.fixture
def done_here(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Units that are done in this process, each with the threads of its matrix products."""
    found: list[tuple[int, int]] = []

    def unit(bench: Bench, common: object, one: int) -> int:
        found.append((one, torch.get_num_threads()))
        return 10 * one

    monkeypatch.setattr(cluster_module, "function_of", lambda task: unit)
    monkeypatch.setattr(Run, "quiet", lambda run, number: None)
    return found


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


# ------------------------------------------------------------------ work that goes on here


@pytest.fixture
def several() -> Iterator[None]:
    """This process has another number of threads than workers."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("several")
def test_work_that_goes_on_here_has_the_threads_of_the_workers(
    cluster: RayCluster, clock: list[float], done_here: list[tuple[int, int]]
) -> None:
    """What workers have done of it and what is done here are to have the same bits."""
    cluster._without = "here"
    run = run_of(cluster, 1)
    link = ready(cluster, run)
    assert run.ledger.next() == 0
    link.busy = {0}
    cluster._told(run, link, "done", 1, 0, "by a worker")
    cluster._told(run, link, "waits", "its machines are gone")
    cluster._look(run)
    clock[0] += 301
    cluster._look(run)
    assert run.ledger.results() == ["by a worker", 20]
    assert done_here == [(2, 1)]
    assert torch.get_num_threads() == 3


def gives_up(cluster: RayCluster, clock: list[float], number: int) -> float:
    """How long a run waits for its cluster before it goes on here."""
    run, begun = run_of(cluster, number), clock[0]
    while not run.ledger.finished:
        cluster._look(run)
        clock[0] += 0.1
        assert clock[0] < begun + 1000
    return clock[0] - begun


@pytest.mark.usefixtures("done_here")
def test_a_cluster_that_stays_away_is_waited_for_once(
    cluster: RayCluster, clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    cluster._without = "here"
    assert gives_up(cluster, clock, 1) > 300
    for number in (2, 3, 4):
        assert gives_up(cluster, clock, number) < 2
    said = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert len(said) == 1, said
    run = run_of(cluster, 5)
    link = ready(cluster, run)
    assert not run.ledger.finished
    assert "is ready again" in caplog.messages[-1]
    cluster._told(run, link, "waits", "its machines are gone")
    assert gives_up(cluster, clock, 6) > 300, "it was there since"


@pytest.mark.usefixtures("done_here")
def test_it_is_joined_while_work_goes_on_here(cluster: RayCluster, clock: list[float]) -> None:
    """To join it takes longer than it is looked for."""
    cluster._without = "here"
    gives_up(cluster, clock, 1)
    first = connected(cluster, run_of(cluster, 2))
    assert cluster._may_start()
    gives_up(cluster, clock, 2)
    assert not first.leaving
    clock[0] += 301
    gives_up(cluster, clock, 3)
    assert first.leaving, "Ray's own attempt to join it may have no end"


def test_work_that_fails_without_its_cluster_waits_each_time(
    cluster: RayCluster, clock: list[float]
) -> None:
    for number in (1, 2):
        with pytest.raises(NoCluster, match="for 300 s"):
            gives_up(cluster, clock, number)


def test_one_on_this_machine_has_a_folder_once_it_is_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cluster_module, "find_spec", lambda name: object())
    monkeypatch.setattr(cluster_module.tempfile, "tempdir", str(tmp_path))
    with RayCluster(1) as executor:
        assert list(tmp_path.iterdir()) == []
        for _ in range(2):
            _, (terms,) = executor._target()
            assert list(tmp_path.iterdir()) == [Path(terms.folder)]
    assert list(tmp_path.iterdir()) == []


def test_what_is_said_of_single_workers_is_logged(
    cluster: RayCluster, caplog: pytest.LogCaptureFixture
) -> None:
    run = run_of(cluster, 1)
    cluster._told(run, connected(cluster, run), "warns", "one cannot be made ready")
    assert caplog.messages == ["one cannot be made ready"]
