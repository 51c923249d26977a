"""Starting and stopping the whole service; the worker's own part is tested elsewhere."""

import errno
import gc
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import cast
from unittest.mock import create_autospec

import pytest
import uvicorn
from support import ROOT
from support.forks.command import Running, jeep
from support.forks.context import forks
from support.service.played_worker.supervised import NOWHERE, supervise, supervisor
from support.service.serving import make_settings

from service.contracts.schemas.access import Scope
from service.ops.early_worker import EarlyWorker, command_of
from service.ops.stop_signals import Signals
from service.serve import (
    STOP_SECONDS,
    ServeError,
    _announce_access,
    _open_store,
    _server,
    listening,
    url_of,
)
from service.settings import EXIT_CONFIG, Settings, SettingsError
from service.store import Store
from service.store.files import encode, replace
from service.store.store import StoreIdentity


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    path = os.pathsep.join([str(ROOT / "tests"), str(ROOT)])
    monkeypatch.setenv("PYTHONPATH", path)
    return make_settings(tmp_path, NOWHERE)


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


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
        until(lambda: len(pids(stub)) == 1)
        os.kill(pids(stub)[0], signal.SIGKILL)
        until(lambda: len(pids(stub)) == 2)
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
        until(lambda: len(pids(stub)) == 1)
        assert pids(stub) == began
        assert f"process {began[0]}" in lines[0]
        os.kill(began[0], signal.SIGKILL)
        until(lambda: len(pids(stub)) == 2)
        assert len(began) == 1
    finally:
        worker.stop()


def test_a_worker_is_given_the_time_to_answer_what_it_has(stub: Settings) -> None:
    worker = supervisor(stub.model_copy(update={"drain_s": 40.0}), [], threading.Event())
    worker._process = create_autospec(subprocess.Popen, instance=True)
    worker._thread = threading.Thread(target=str)
    worker._thread.start()
    worker.stop()
    worker._process.terminate.assert_called_once_with()
    worker._process.wait.assert_called_once_with(40 + STOP_SECONDS)


def test_a_signal_while_the_worker_is_stopped_is_passed_on(stub: Settings) -> None:
    """The first one stops the server, which raises it again when it has ended."""
    worker, signals = supervisor(stub, [], threading.Event()), Signals()
    process = worker._process = create_autospec(subprocess.Popen, instance=True)
    signals.hand_over(create_autospec(uvicorn.Server, instance=True), worker.hurry)
    signals.handle(signal.SIGINT, None)
    process.terminate.assert_not_called()
    process.wait.side_effect = lambda seconds: signals.handle(signal.SIGINT, None)
    worker._thread = threading.Thread(target=str)
    worker._thread.start()
    worker.stop()
    assert process.terminate.call_count == 2


def test_a_worker_that_ends_by_itself_has_not_died(stub: Settings) -> None:
    (stub.store / "obliging").touch()
    lines: list[str] = []
    worker = supervisor(stub, lines, threading.Event())
    worker.start()
    until(lambda: len(pids(stub)) == 2)
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
        until(lambda: pids(stub))
    finally:
        parent.kill()
        parent.join()
    until(lambda: not alive(pids(stub)[0]))


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        for command in ("serve", "api"):
            shown = jeep(command, "--port", port, "--store", str(tmp_path / "s"),
                         "--redis-url", NOWHERE)  # fmt: skip
            assert shown.returncode == 3
            assert f"port {port} of 127.0.0.1 is taken" in shown.stderr


def test_a_store_in_use_is_named(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "s")
    with store.serve_lock():
        shown = jeep("serve", "--port", "0", "--store", str(tmp_path / "s"))
    assert shown.returncode == 3
    assert "another jeep serve already uses this store" in shown.stderr


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("serve", "--port", "abc"), "--port"),
        (("serve", "--dtype", "int3"), "--dtype"),
        (("api",), "JEEP_REDIS_URL"),
        (("serve", "--auth", "off", "--host", "0.0.0.0"), "--auth"),
        (("worker",), "JEEP_REDIS_URL"),
        (("serve", "--store", str(ROOT)), "JEEP_STORE"),
    ],
)
def test_a_wrong_setting_is_named(arguments: tuple[str, ...], named: str) -> None:
    shown = jeep(*arguments)
    assert shown.returncode == 2
    assert named in shown.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_api_alone_stops_cleanly(number: int, tmp_path: Path) -> None:
    out, errors = tmp_path / "out", tmp_path / "errors"
    given = ("--port", "0", "--store", str(tmp_path / "s"), "--redis-url", NOWHERE)
    api = Running("api", *given, out=out, errors=errors)
    until(lambda: "startup complete" in errors.read_text())
    assert "http://127.0.0.1:" in out.read_text()
    api.send_signal(number)
    assert api.wait(20) == 0, errors.read_text()
    assert "Traceback" not in errors.read_text()


@pytest.mark.parametrize(("auth", "said"), [("keys", "jeep keys create"), ("off", "JEEP_AUTH")])
def test_the_service_prints_who_has_access(auth: str, said: str, tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "my store", NOWHERE)
    settings = settings.model_copy(update={"auth": auth})
    store = Store.open(settings.store)
    lines: list[str] = []
    _announce_access(settings, store, lines.append)
    assert said in lines[0]
    store.keys.create("me", [Scope.READ])
    _announce_access(settings, store, lines.append)
    assert len(lines) == (1 if auth == "keys" else 2)


@pytest.mark.parametrize(
    ("failing", "error", "code"),
    [
        ("getaddrinfo", socket.gaierror(socket.EAI_AGAIN, "Temporary failure"), 1),
        ("getaddrinfo", socket.gaierror(socket.EAI_NONAME, "Name or service not known"), 2),
        ("socket.listen", OSError(errno.ENOBUFS, "No buffer space available"), 1),
        ("socket.listen", PermissionError(errno.EACCES, "Permission denied"), 2),
    ],
    ids=str,
)
def test_only_a_wrong_address_is_final(
    monkeypatch: pytest.MonkeyPatch, failing: str, error: OSError, code: int
) -> None:
    """A supervisor does not start a service again that has ended with 2."""

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(f"socket.{failing}", fail)
    with pytest.raises(ServeError) as caught, listening("localhost", 0):
        pass
    assert caught.value.exit_code == code


@pytest.mark.parametrize(("number", "code"), [("ENOSPC", 1), ("ESTALE", 1), ("EACCES", 2)])
def test_only_a_wrong_store_is_final(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: str, code: int
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(getattr(errno, number), "not now")

    monkeypatch.setattr(Store, "open", fail)
    with pytest.raises(ServeError) as caught:
        _open_store(Settings(store=tmp_path))
    assert caught.value.exit_code == code


def test_the_api_alone_ends_when_its_store_is_replaced(tmp_path: Path) -> None:
    root = Store.open(tmp_path / "store").root
    given = ("--store", str(root), "--redis-url", NOWHERE, "--port", "0")
    out, errors = tmp_path / "out", tmp_path / "errors"
    api = Running("api", *given, out=out, errors=errors)
    until(lambda: "api at" in out.read_text() + errors.read_text())
    replace(root / "id.json", encode(StoreIdentity(id="another")))
    assert api.wait() == 75
    assert "holds another store now" in out.read_text() + errors.read_text()


def test_a_worker_does_not_get_the_key_of_a_client(
    stub: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JEEP_API_KEY", "jeep_secret")
    assert "jeep_secret" not in supervisor(stub, [], threading.Event())._environment.values()


def test_answers_wait_for_no_acknowledgement_of_their_first_part() -> None:
    """Without ``TCP_NODELAY`` an answer in two parts takes a twentieth of a second.

    asyncio sets it on the connections of sockets that name their protocol, and of no others.
    """
    with listening("127.0.0.1", 0) as sock:
        assert sock.proto == socket.IPPROTO_TCP


def test_the_printed_address_can_be_opened() -> None:
    with listening("127.0.0.1", 0) as sock:
        port = sock.getsockname()[1]
        assert url_of("0.0.0.0", sock) == f"http://127.0.0.1:{port}"
        assert url_of("::", sock) == f"http://[::1]:{port}"


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
        until(lambda: process._process is not None)
        assert process._process is not None
        path = Path(f"/proc/{process._process.pid}/environ")
        until(lambda: b"OMP_WAIT_POLICY=" + expected.encode() in path.read_bytes().split(b"\0"))
    finally:
        process.stop()


def test_an_api_that_cannot_be_made_collects_garbage(frozen: list[bool]) -> None:
    with pytest.raises(SettingsError, match="JEEP_REDIS_URL"):
        _server(Settings(), access_log=False)
    assert frozen == [False]
    assert gc.isenabled()
