"""A Ray cluster as executor: ``make cluster-test``, which installs Ray.

The same bytes with any number of actors, whoever dies; a cluster that goes away; who may reach it.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from support.executors.kinds_of_work import KINDS
from support.library import shared_work
from support.library.shared_work import EDITS, bytes_of, edited

from jeep_core.errors import Cancelled, NoCluster, NumericalError
from jeep_core.evaluation.units import measure_apart
from jeep_core.executors.crew import Run
from jeep_core.executors.here import HERE
from jeep_core.executors.link import Link
from jeep_core.executors.ray import cluster as cluster_module
from jeep_core.executors.ray.beside import NOWHERE
from jeep_core.executors.ray.cluster import RayCluster
from jeep_core.executors.wire import unpack
from jeep_core.models.loading import LoadedModel
from jeep_core.moments.cache import Moments
from jeep_core.monitor import NOTHING, Monitor
from jeep_core.suites import Case, Style
from jeep_core.values import units

Plain = Callable[[str], dict[str, bytes]]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "unit_facts", lambda device: 2)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return shared_work.model_in(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def moments(model: LoadedModel) -> Moments:
    return shared_work.moments_of(model)


@pytest.fixture(scope="module")
def plain(model: LoadedModel, moments: Moments) -> Plain:
    """The bytes of an edit in this process, computed once."""
    known: dict[str, dict[str, bytes]] = {}

    def of(how: str) -> dict[str, bytes]:
        if how not in known:
            known[how] = bytes_of(edited(model, moments, how))
        return known[how]

    return of


class Striking(RayCluster):
    """Kills actors, or the process that speaks to Ray, when it says something of a kind."""

    kind, times, whom, struck = "", 0, "actor", 0

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.heard: list[str] = []

    def strike_at(self, kind: str, times: int = 1, whom: str = "actor") -> None:
        self.kind, self.times, self.whom, self.struck = kind, times, whom, 0

    def _told(self, run: Run, link: Link, kind: str, *rest: Any) -> None:
        super()._told(run, link, kind, *rest)
        self.heard.append(kind)
        # one that was killed before may not have been replaced yet
        there = [pid for pid in link.others if psutil.pid_exists(pid)]
        if kind == self.kind and self.struck < self.times and there:
            self.struck += 1
            os.kill(link.process.pid if self.whom == "driver" else there[-1], signal.SIGKILL)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Striking]:
    """Two actors in a cluster on this machine."""
    found = Striking(2, wait_s=240)
    yield found
    found.close()


@pytest.fixture(autouse=True)
def _no_strike(cluster: Striking) -> None:
    cluster.strike_at("")


@pytest.mark.parametrize("how", EDITS)
def test_an_edit_has_the_same_bytes_as_here(
    model: LoadedModel, moments: Moments, cluster: Striking, plain: Plain, how: str
) -> None:
    assert bytes_of(edited(model, moments, how, cluster)) == plain(how)


def test_it_listens_on_loopback_alone(
    cluster: Striking, model: LoadedModel, moments: Moments
) -> None:
    edited(model, moments, "memit", cluster)
    driver = psutil.Process(cluster.pids()[0])
    family = [driver, *driver.children(recursive=True)]
    listening = {
        c.laddr.ip for one in family for c in one.net_connections("inet") if c.status == "LISTEN"
    }
    assert len(family) > 4
    assert listening <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    assert listening


def test_an_evaluation_has_the_same_records_as_here(
    model: LoadedModel, moments: Moments, cluster: Striking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jeep_core.evaluation.units.CASES_TOGETHER", 3)
    view = edited(model, moments, "memit").view
    cases = [
        Case(city, "{} is a city in the country of", "Peru", target_true="old")
        for city in shared_work.CITIES
    ]
    expected = measure_apart(view, cases, Style.CONTRAST)
    assert measure_apart(view, cases, Style.CONTRAST, executor=cluster) == expected


@pytest.mark.parametrize("kind", ["runs", "settings"])
def test_whole_runs_and_settings_have_the_same_figures_as_here(
    model: LoadedModel,
    cluster: Striking,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    kind: str,
) -> None:
    """Actors that edit by themselves cut facts as they always do, and so is it here."""
    monkeypatch.undo()
    work, _ = KINDS[kind]
    expected = work(model, HERE, NOTHING, tmp_path / "here")
    assert work(model, cluster, NOTHING, tmp_path / "there") == expected


def test_an_edit_on_top_of_another_has_the_same_bytes(
    model: LoadedModel, moments: Moments, cluster: Striking
) -> None:
    first = edited(model, moments, "jeep")
    again = bytes_of(edited(first.view, moments, "memit"))
    assert bytes_of(edited(first.view, moments, "memit", cluster)) == again


def test_errors_arrive_as_they_are(model: LoadedModel, moments: Moments, cluster: Striking) -> None:
    _, hparams = EDITS["memit"]
    wild = {**hparams.model_dump(), "learning_rate": 1e38}
    with pytest.raises(NumericalError) as here:
        edited(model, moments, "memit", hparams=wild)
    with pytest.raises(NumericalError) as there:
        edited(model, moments, "memit", cluster, hparams=wild)
    assert str(there.value) == str(here.value)


def test_a_run_that_is_cancelled_leaves_actors_that_go_on(
    model: LoadedModel, moments: Moments, cluster: Striking, plain: Plain
) -> None:
    begun: list[int] = []

    def check() -> None:
        if begun:
            raise Cancelled("enough")

    monitor = Monitor(
        lambda phase, done, total: begun.append(1) if phase == "optimise" else None, check
    )
    edited(model, moments, "memit", cluster)
    before = cluster.pids()
    with pytest.raises(Cancelled, match="enough"):
        edited(model, moments, "memit", cluster, monitor=monitor)
    assert bytes_of(edited(model, moments, "memit", cluster)) == plain("memit")
    assert cluster.pids() == before


@pytest.mark.parametrize(
    ("kind", "whom"),
    [("begun", "actor"), ("done", "actor"), ("begun", "driver"), ("done", "driver")],
)
def test_whoever_is_killed_the_work_is_done_again(
    model: LoadedModel, moments: Moments, cluster: Striking, plain: Plain, kind: str, whom: str
) -> None:
    edited(model, moments, "memit", cluster)
    cluster.strike_at(kind, 1, whom)
    assert bytes_of(edited(model, moments, "memit", cluster)) == plain("memit")
    assert cluster.struck == 1


class Holding:
    """A caller that is made to wait once, when actors say how far they are.

    For ``limit`` seconds, or until a unit is done; ``took`` is how long it was.
    """

    def __init__(self, cluster: Striking, limit: float) -> None:
        self._cluster, self._limit = cluster, limit
        self.is_done, self.took = False, 0.0
        self.monitor = Monitor(give_way=self._wait)
        cluster.heard.clear()

    def _wait(self) -> None:
        if "progress" not in self._cluster.heard or self.took:
            return
        began = time.monotonic()
        while self.took < self._limit and not self.is_done:
            time.sleep(0.05)
            inbox = self._cluster._inbox
            said = [inbox.get() for _ in range(inbox.qsize())]
            for one in said:
                inbox.put(one)
            self.is_done = any(b is not None and unpack(b)[0] == "done" for _, b in said)  # type: ignore[arg-type]
            self.took = time.monotonic() - began


def test_actors_on_this_machine_rest_while_the_caller_is_made_to_wait(
    model: LoadedModel, moments: Moments, cluster: Striking, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For half as long again as actors that do not rest need to end a unit."""
    _, given = EDITS["memit"]
    hparams = given.model_copy(update={"n_steps": 500, "learning_rate": 1e-6}).model_dump()

    def long(monitor: Monitor = NOTHING) -> dict[str, bytes]:
        return bytes_of(edited(model, moments, "memit", cluster, hparams=hparams, monitor=monitor))

    cluster.close()  # who speaks to Ray is told when it is started
    with monkeypatch.context() as patch:
        patch.setattr(cluster_module, "where", lambda devices: NOWHERE)
        expected = long()  # actors are ready after it
        working = Holding(cluster, 60.0)
        assert long(working.monitor) == expected
    assert working.is_done
    cluster.close()
    assert long() == expected
    resting = Holding(cluster, 1.5 * working.took)
    assert long(resting.monitor) == expected
    assert resting.took >= 1.5 * working.took
    assert not resting.is_done
    print(f"a unit was done in {working.took:.1f} s, and none in {resting.took:.1f} s of rest")


# ------------------------------------------------------------------ a cluster of its own


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Head:
    """A head node on loopback, with a token."""

    def __init__(self, folder: Path, token: str) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "RAY_USAGE_STATS_ENABLED": "0"}
        own["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        command = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block"]
        command += ["--node-ip-address=127.0.0.1", f"--port={self.address.partition(':')[2]}"]
        command += ["--include-dashboard=false", "--disable-usage-stats", "--num-cpus=2"]
        command += [f"--temp-dir={folder}", "--object-store-memory=100000000"]
        self.log = (folder.parent / f"{folder.name}.log").open("w")
        self.process = subprocess.Popen(
            command, env={**os.environ, **own}, stdout=self.log, stderr=self.log
        )

    def close(self) -> None:
        family = psutil.Process(self.process.pid).children(recursive=True) if self.alive else []
        self.process.terminate()
        self.process.wait(60)
        for one in family:
            if one.is_running():
                one.kill()
        self.log.close()

    @property
    def alive(self) -> bool:
        return self.process.poll() is None


@pytest.fixture
def head(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Head]:
    token = secrets.token_hex(32)
    monkeypatch.setenv("RAY_AUTH_TOKEN", token)
    import tempfile

    with tempfile.TemporaryDirectory(prefix="r-") as folder:
        found = Head(Path(folder) / "h", token)
        yield found
        found.close()


def test_a_cluster_that_goes_away_ends_the_work_after_a_while_or_leaves_it_here(
    model: LoadedModel, moments: Moments, plain: Plain, head: Head
) -> None:
    """A cluster that is not up yet is waited for, too."""
    with RayCluster(2, head.address, wait_s=240) as executor:
        assert bytes_of(edited(model, moments, "memit", executor)) == plain("memit")
        head.close()
        executor._wait_s = 5
        with pytest.raises(NoCluster, match="no worker was ready for 5 s"):
            edited(model, moments, "memit", executor)
        executor._without = "here"
        assert bytes_of(edited(model, moments, "memit", executor)) == plain("memit")


class Closing(RayCluster):
    """Has its cluster shut down as soon as it has given the first result of a unit."""

    head: Head | None = None
    given = 0

    def _told(self, run: Run, link: Link, kind: str, *rest: Any) -> None:
        super()._told(run, link, kind, *rest)
        if kind == "done" and self.head is not None:
            self.given += 1
            if self.head.alive:
                self.head.close()


@pytest.mark.parametrize("without", ["fail", "here"])
def test_a_cluster_that_is_shut_down_in_the_middle_of_a_run(
    model: LoadedModel, moments: Moments, plain: Plain, head: Head, without: Any
) -> None:
    """The work waits for it, and then says why it ends, or goes on from what was done."""
    # one actor is given two of the four units at first: the others are never begun by it
    with Closing(1, head.address, wait_s=240, without=without) as executor:
        edited(model, moments, "memit", executor)
        executor.head, executor._wait_s = head, 5
        if without == "fail":
            with pytest.raises(
                NoCluster, match=r"the Ray cluster at .* no worker was ready for 5 s"
            ):
                edited(model, moments, "memit", executor)
        else:
            assert bytes_of(edited(model, moments, "memit", executor)) == plain("memit")
        assert executor.given in (1, 2)
        assert not head.alive


def test_without_its_token_a_cluster_cannot_be_used(
    model: LoadedModel, moments: Moments, head: Head, monkeypatch: pytest.MonkeyPatch
) -> None:
    until_up(head)
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    with RayCluster(1, head.address, wait_s=5) as executor, pytest.raises(NoCluster):
        edited(model, moments, "memit", executor)


def until_up(head: Head) -> None:
    host, _, port = head.address.partition(":")
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        with socket.socket() as one:
            if one.connect_ex((host, int(port))) == 0:
                return
        time.sleep(0.2)
    raise AssertionError("the head does not come up")


@pytest.mark.parametrize("actors", [1, 4])
def test_other_numbers_of_actors_give_the_same_bytes(
    model: LoadedModel, moments: Moments, plain: Plain, actors: int
) -> None:
    with RayCluster(actors, wait_s=240) as executor:
        assert bytes_of(edited(model, moments, "memit", executor)) == plain("memit")
