"""A whole service as a user starts it: ``jeep serve`` with the bundled GPT-J, over real HTTP."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from support.forks.command import Running

from service.client import Client

START_SECONDS = 120
TARGETS = ("Japan", "Mexico", "Kenya", "Sweden", "Poland", "Canada", "Brazil", "Egypt")


class Serving:
    """A running ``jeep serve`` and a client for it."""

    def __init__(self, store: Path, log: Path, *flags: str) -> None:
        self.store, self.log, self.flags = store, log, flags
        self._begin()

    def _launched(self, arguments: list[str]) -> subprocess.Popen[bytes] | Running:
        command = [sys.executable, "-m", "service.cli", *arguments]
        with self.log.open("a") as output:
            return subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)

    def _begin(self) -> None:
        given = ["--port", "0", "--store", str(self.store), "--auth", "off", *self.flags]
        self.process = self._launched(["serve", *given])
        self.url = self.line(r"listening at (\S+)")
        self.client = Client(self.url)
        self.http = httpx.Client(base_url=self.url, timeout=120)
        deadline = time.monotonic() + START_SECONDS
        while not self._up():
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)

    def start_again(self) -> None:
        """Start it on the same store once it has been stopped; another log begins."""
        self.log = self.log.with_name(f"{self.log.name}-again")
        self._begin()

    def _up(self) -> bool:
        """Whether the service is ready, or not ready only because head is damaged."""
        answer = self.http.get("/readyz")
        errors = [] if answer.is_success else answer.json()["errors"]
        return all(error["code"] == "corrupt_version" for error in errors)

    def line(self, pattern: str) -> str:
        """The first group of the last match in what the service has printed; waits for it."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            found = re.findall(pattern, self.log.read_text())
            if found:
                return str(found[-1])
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        raise AssertionError(f"{pattern!r} was not printed:\n{self.log.read_text()}")

    @property
    def worker_pid(self) -> int:
        return int(self.line(r"worker started \(process (\d+)\)"))

    def kill_worker(self) -> None:
        os.kill(self.worker_pid, signal.SIGKILL)

    def stop(self) -> int:
        """Stop it as Ctrl-C does; its exit code, also where it has ended already."""
        self.client.close()
        self.http.close()
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(40)


class Forked(Serving):
    """The same program, forked with its worker from a process that has imported everything.

    For tests that start services many times; the shared service is started as a user does it.
    """

    def _launched(self, arguments: list[str]) -> Running:
        return Running(*arguments, out=self.log, errors=self.log)


@pytest.fixture(scope="session")
def start() -> type[Serving]:
    """Starts a service: store, log, flags.  The test stops it."""
    return Forked


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("service")
    serving = Serving(folder / "store", folder / "log")
    # second moments of the regions, taken once for all tests
    first = serving.client.edit([{"subject": "Lyon", "relation": "city_country", "object": "Peru"}])
    assert serving.client.wait(first.id, timeout=240).status == "succeeded"
    yield serving
    assert serving.stop() == 0, serving.log.read_text()


@pytest.fixture
def at_base(service: Serving) -> Serving:
    """The shared service with head on the unedited model."""
    service.client.rollback("base")
    return service


@pytest.fixture(scope="session")
def breakable() -> Iterator[list[Serving]]:
    """The service of `own_service`, once there is one."""
    kept: list[Serving] = []
    yield kept
    for serving in kept:
        serving.stop()


@pytest.fixture
def own_service(
    request: pytest.FixtureRequest,
    service: Serving,
    breakable: list[Serving],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Serving]:
    """A service that a test may break, stop and start again, with head on the unedited model.

    Its store has the second moments from the beginning, and what earlier tests have left in it.
    After a test that fails it is given up, and the next one gets another.
    """
    if not breakable:
        folder = tmp_path_factory.mktemp("breakable")
        shutil.copytree(service.store / "base", folder / "store" / "base")
        breakable.append(Forked(folder / "store", folder / "log"))
    [serving] = breakable
    if serving.process.poll() is not None:
        serving.start_again()
    serving.client.rollback("base")
    failed = request.session.testsfailed
    yield serving
    if request.session.testsfailed > failed:
        breakable.clear()
        serving.stop()


@pytest.fixture
def serve_store(tmp_path: Path) -> Iterator[Callable[[Path], Serving]]:
    """Starts a service on a store; they are stopped at the end."""
    with ExitStack() as stack:

        def start(store: Path) -> Serving:
            serving = Forked(store, tmp_path / f"{store.name}.log")
            stack.callback(serving.stop)
            return serving

        yield start


@pytest.fixture
def start_anew(tmp_path: Path) -> Iterator[Callable[[], Serving]]:
    """Starts a program of its own, which finds what the environment names; stopped in the end."""
    with ExitStack() as stack:

        def start() -> Serving:
            serving = Serving(tmp_path / "store", tmp_path / "log")
            stack.callback(serving.stop)
            return serving

        yield start


@pytest.fixture
def llama(tmp_path: Path) -> Iterator[Serving]:
    """A service with the bundled LLaMA."""
    serving = Forked(tmp_path / "store", tmp_path / "log", "--model", "atlas-llama")
    yield serving
    assert serving.stop() == 0, serving.log.read_text()


@pytest.fixture(scope="session")
def many_facts() -> list[dict[str, str]]:
    """64 counterfactual facts, enough to keep the edit lane busy for seconds."""
    from jeep_core.suites import load_counterfact

    cases = load_counterfact("atlas-counterfact").cases[:64]
    return [
        {
            "subject": case.subject,
            "prompt": case.prompt,
            "target_new": case.target_new,
            "target_true": str(case.target_true),
        }
        for case in cases
    ]
