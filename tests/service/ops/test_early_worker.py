"""A worker that is started before its settings are final."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from support import ROOT

from service.ops.early_worker import early_worker

MODULE = """
import os, pathlib
from service.ops.early_worker import told_settings

folder = pathlib.Path(os.environ["FOLDER"])
(folder / "waits").write_text(str(os.getpid()))
if told_settings():
    (folder / "told").write_text(os.environ["JEEP_MODEL"] + os.environ["JEEP_STORE"])
else:
    (folder / "not needed").touch()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the module ``waiting`` says what it does."""
    (tmp_path / "waiting.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    monkeypatch.setenv("FOLDER", str(tmp_path))
    monkeypatch.setenv("JEEP_MODEL", "as the environment says")
    return tmp_path


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_it_waits_for_its_settings_and_they_replace_those_it_inherited(folder: Path) -> None:
    with early_worker("waiting") as worker:
        until((folder / "waits").exists)
        process = worker.begin({"JEEP_MODEL": "as its service says", "JEEP_STORE": ", é"})
    assert process.wait(30) == 0  # and was not ended with the block
    assert (folder / "told").read_text() == "as its service says, é"


def test_it_is_told_only_what_it_lacks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than a pipe holds would keep the service waiting until everything is imported."""
    monkeypatch.setenv("LARGE", "x" * 100_000)
    with early_worker("waiting") as worker:
        sent: list[bytes] = []
        process = worker._process
        assert process.stdin is not None
        monkeypatch.setattr(process.stdin, "write", sent.append)
        environment = {**os.environ, "JEEP_MODEL": "as its service says"}
        assert worker.begin(environment) is process
    assert sent == [b'{"JEEP_MODEL": "as its service says"}']
    assert process.wait(30) == 0


def test_it_ends_when_the_service_cannot_start(folder: Path) -> None:
    def serve() -> None:
        with early_worker("waiting") as worker:
            begun.append(worker._process)
            until((folder / "waits").exists)
            raise ZeroDivisionError

    begun: list[subprocess.Popen[bytes]] = []
    with pytest.raises(ZeroDivisionError):
        serve()
    assert begun[0].returncode is not None
    assert not (folder / "told").exists()


def test_one_that_has_ended_by_itself_is_left_to_its_supervisor(folder: Path) -> None:
    (folder / "waiting.py").write_text("raise SystemExit(3)")
    with early_worker("waiting") as worker:
        worker._process.wait(30)
        assert worker.begin({"JEEP_MODEL": "x" * 100_000}).wait(30) == 3


def test_it_ends_with_a_killed_service(folder: Path) -> None:
    program = (
        "import time\nfrom service.ops.early_worker import early_worker\n"
        "with early_worker('waiting'): time.sleep(60)"
    )
    owner = subprocess.Popen([sys.executable, "-c", program])
    until((folder / "waits").exists)
    until(lambda: (folder / "waits").read_text())
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    pid = int((folder / "waits").read_text())
    until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie")
    assert not (folder / "told").exists()


def test_a_service_that_cannot_start_says_why_and_leaves_no_worker(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        command = [sys.executable, "-m", "service.cli", "serve", "--port", port]
        command += ["--store", str(tmp_path / "s"), "--auth", "off"]
        shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert shown.returncode == 3  # the output was closed, so its worker has ended, too
    assert shown.stderr.strip().endswith("choose another with --port (JEEP_PORT)")
    assert len(shown.stderr.strip().splitlines()) == 1
    assert shown.stdout == ""
