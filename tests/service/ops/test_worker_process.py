"""The worker as a child of the service; what the worker itself does is tested elsewhere."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import cast
from unittest.mock import Mock, create_autospec

import pytest
from support import ROOT
from support.faults.processes import until
from support.forks.context import forks
from support.service.played_worker.supervised import NOWHERE, supervise, supervisor
from support.service.serving import make_settings

from service.ops.early_worker import EarlyWorker, command_of
from service.ops.stop_signals import Signals, Stop
from service.ops.worker_process import STOP_SECONDS, WorkerProcess
from service.serve import ApiServer
from service.settings import EXIT_CONFIG, Settings


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    path = os.pathsep.join([str(ROOT / "tests"), str(ROOT)])
    monkeypatch.setenv("PYTHONPATH", path)
    return make_settings(tmp_path, NOWHERE)


def pids(settings: Settings) -> list[int]:
    path = settings.store / "pids"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_killed_worker_is_started_again(stub: Settings) -> None:
    lines: list[str] = []
    worker = supervisor(stub, lines, threading.Event())
    worker.start()
    try:
        until(lambda: len(pids(stub)) == 1, "it begins")
        os.kill(pids(stub)[0], signal.SIGKILL)
        until(lambda: len(pids(stub)) == 2, "it begins again")
    finally:
        worker.stop()
    assert any("SIGKILL" in line and "again in 0.5 s" in line for line in lines)
    assert not any(map(alive, pids(stub)))


def test_the_worker_that_waits_is_the_first_one_alone(stub: Settings) -> None:
    lines: list[str] = []
    worker = supervisor(stub, lines, threading.Event())
    began: list[int] = []

    def begin(environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(command_of(worker._module), env=dict(environment))
        began.append(process.pid)
        return process

    worker._early = cast(EarlyWorker, SimpleNamespace(begin=begin))
    worker.start()
    try:
        until(lambda: len(pids(stub)) == 1, "it begins")
        assert pids(stub) == began
        assert f"process {began[0]}" in lines[0]
        os.kill(began[0], signal.SIGKILL)
        until(lambda: len(pids(stub)) == 2, "it begins again")
        assert len(began) == 1
    finally:
        worker.stop()


class Clock:
    """Time that goes on by a tenth of a second whenever a process is waited for."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += 0.1
        raise subprocess.TimeoutExpired("worker", seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("service.ops.worker_process.time", clock)
    return clock


def with_process(worker: WorkerProcess, wait: Callable[[float], object]) -> Mock:
    """Give a supervisor a process that is waited for like that."""
    process: Mock = create_autospec(subprocess.Popen, instance=True)
    process.wait.side_effect = wait
    worker._process = process
    worker._thread = threading.Thread(target=str)
    worker._thread.start()
    return process


def test_a_worker_is_given_the_time_to_answer_what_it_has(stub: Settings, clock: Clock) -> None:
    worker = supervisor(stub.model_copy(update={"drain_s": 40.0}), [], threading.Event())
    process = with_process(worker, clock.wait)
    worker.stop()
    process.terminate.assert_called_once_with()
    process.send_signal.assert_not_called()
    process.kill.assert_called_once_with()
    assert clock.now == pytest.approx(40 + STOP_SECONDS, abs=0.3)


@pytest.mark.parametrize("before", [True, False])
def test_a_second_signal_ends_what_a_worker_answers(
    stub: Settings, clock: Clock, before: bool
) -> None:
    """Also one that has come while the api was ending: uvicorn raises both again then."""
    lines: list[str] = []
    worker, signals = supervisor(stub, lines, threading.Event()), Signals()
    signals.hurry = worker.hurry
    signals.hand_over(create_autospec(ApiServer, instance=True, signals=0))
    signals.handle(signal.SIGINT, None)

    def wait(seconds: float) -> None:
        if clock.now == 0 and not before:
            signals.handle(signal.SIGINT, None)
        clock.wait(seconds)

    process = with_process(worker, wait)
    if before:
        signals.handle(signal.SIGINT, None)
    worker.stop()
    process.terminate.assert_called_once_with()
    process.send_signal.assert_called_once_with(signal.SIGINT)
    assert clock.now == pytest.approx(STOP_SECONDS, abs=0.3), "it is not waited for as long"
    assert any("not answered" in line for line in lines)


def test_a_hurry_gives_a_worker_no_more_time(stub: Settings, clock: Clock) -> None:
    worker = supervisor(stub.model_copy(update={"drain_s": 0.0}), [], threading.Event())

    def wait(seconds: float) -> None:
        if clock.now > STOP_SECONDS - 1:
            worker.hurry()
        clock.wait(seconds)

    process = with_process(worker, wait)
    worker.stop()
    process.send_signal.assert_called_once_with(signal.SIGINT)
    assert clock.now == pytest.approx(STOP_SECONDS, abs=0.3)


def test_a_signal_may_come_before_the_worker_begins(stub: Settings) -> None:
    worker = supervisor(stub, [], threading.Event())
    worker.stop()
    worker.start()  # had the signal come while it was being started
    worker._thread.join()
    assert worker._process is None


def test_one_signal_is_no_hurry_whoever_handles_it() -> None:
    hurry, signals = Mock(), Signals()
    signals.hurry = hurry
    with pytest.raises(Stop):
        signals.handle(signal.SIGTERM, None)
    hurry.assert_not_called()
    signals.handle(signal.SIGTERM, None)  # and does not interrupt what stops
    hurry.assert_called_once_with()


def test_a_worker_that_ends_by_itself_has_not_died(stub: Settings) -> None:
    (stub.store / "obliging").touch()
    lines: list[str] = []
    worker = supervisor(stub, lines, threading.Event())
    worker.start()
    until(lambda: len(pids(stub)) == 2, "it begins again")
    worker.stop()
    assert "the worker has ended, starting it again in 0.5 s" in lines


def test_a_misconfigured_worker_stops_the_service(stub: Settings) -> None:
    (stub.store / "misconfigured").touch()
    stopped = threading.Event()
    worker = supervisor(stub, [], stopped)
    worker.start()
    assert stopped.wait(20)
    worker.stop()
    assert worker.fatal == EXIT_CONFIG
    assert len(pids(stub)) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
def test_the_worker_dies_with_a_killed_service(stub: Settings) -> None:
    parent = forks().Process(target=supervise, args=(stub.store, os.environ["PYTHONPATH"]))
    parent.start()
    try:
        until(lambda: pids(stub), "it begins")
    finally:
        parent.kill()
        parent.join()
    until(lambda: not alive(pids(stub)[0]), "it ends")


def test_a_worker_does_not_get_the_key_of_a_client(
    stub: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JEEP_API_KEY", "jeep_secret")
    assert "jeep_secret" not in supervisor(stub, [], threading.Event())._environment.values()


@pytest.mark.parametrize(("given", "expected"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_idle_threads_of_a_worker_do_not_spin_unless_asked_to(
    stub: Settings, monkeypatch: pytest.MonkeyPatch, given: str | None, expected: str
) -> None:
    """OpenMP reads its variable when it is loaded, so it is set before the worker starts."""
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if given:
        monkeypatch.setenv("OMP_WAIT_POLICY", given)
    process = supervisor(stub, [], threading.Event())
    process.start()
    try:
        until(lambda: process._process, "it begins")
        assert process._process is not None
        path = Path(f"/proc/{process._process.pid}/environ")
        until(lambda: b"OMP_WAIT_POLICY=" + expected.encode() in path.read_bytes().split(b"\0"),
              "it is told")  # fmt: skip
    finally:
        process.stop()
