"""The processes of a service that can be broken: queue server, worker and api.

Each is started, broken, stopped or killed, and started again.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TypeVar

from redis import Redis
from redis.exceptions import RedisError

from service.ops.embedded_server import _find_binary
from support.faults import children
from support.faults.halts import Halts
from support.forks.context import forks

PATIENCE_S = 60.0
T = TypeVar("T")


def until(condition: Callable[[], T], what: str, seconds: float = PATIENCE_S) -> T:
    """Wait until a condition is true; return its value."""
    begun = time.monotonic()
    while not (found := condition()):
        waited = time.monotonic() - begun
        assert waited < seconds, f"{what}: not within {seconds:g} s"
        time.sleep(min(0.05, max(0.01, waited / 20)))  # who asks often slows down who answers
    return found


class Part:
    """The worker or the api: a process that is started, broken and started again."""

    def __init__(self, name: str, folder: Path, environment: Mapping[str, object]) -> None:
        self.name, self.log = name, folder / f"{name}.log"
        (folder / f"{name}-halts").mkdir()
        self.halts = Halts(folder / f"{name}-halts")
        self.environment = {key: str(value) for key, value in environment.items()}
        self.environment[children.HALTS] = str(folder / f"{name}-halts")
        self.starts = 0
        self._process: BaseProcess | None = None

    @property
    def pid(self) -> int:
        """The id of the last process."""
        assert self._process is not None
        assert self._process.pid is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.is_alive()

    def start(self) -> None:
        assert not self.alive
        kept = {key: os.environ[key] for key in ("PATH", "HOME", "TMPDIR") if key in os.environ}
        environment = {"HF_HUB_OFFLINE": "1", **kept, **self.environment}
        self._process = forks().Process(
            target=children.run, args=(self.name, environment, self.log)
        )
        self._process.start()
        self.starts += 1

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def ended(self, seconds: float = PATIENCE_S) -> int:
        """Wait for its end; return the exit code, negative for a signal."""
        assert self._process is not None
        self._process.join(seconds)
        code = self._process.exitcode
        assert code is not None, f"{self.name} did not end:\n{self.log.read_text()[-3000:]}"
        return code

    def stop(self) -> int | None:
        """Send SIGTERM and return the exit code; None if it does not run."""
        self.halts.let_go()
        if not self.alive:
            return None
        self.signal(signal.SIGTERM)
        return self.ended()

    def kill(self) -> None:
        if self.alive:
            self.signal(signal.SIGKILL)
            self.ended()
        self.halts.let_go()


class QueueServer:
    """Valkey as ``jeep serve`` starts it; with ``FAULTS_SERVER`` another binary."""

    name = "server"

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._folder, self._socket = folder, folder / "queue.sock"
        self._process: subprocess.Popen[bytes] | None = None
        self.binary = os.environ.get("FAULTS_SERVER") or str(_find_binary())
        self.url = f"unix://{self._socket}"
        self.client = Redis(unix_socket_path=str(self._socket), decode_responses=True)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        assert not self.alive
        options = {"dir": self._folder, "logfile": self._folder / "server.log", "port": 0,
                   "unixsocket": self._socket, "appendonly": "yes", "appendfsync": "everysec",
                   "maxmemory-policy": "noeviction", "save": ""}  # fmt: skip
        command = [self.binary]
        for name, value in options.items():
            command += [f"--{name}", str(value)]
        self._socket.unlink(missing_ok=True)
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        until(self.answers, "the queue server answers")

    def answers(self) -> bool:
        assert self.alive, (self._folder / "server.log").read_text()[-2000:]
        with contextlib.suppress(RedisError):
            return bool(self.client.ping())
        return False

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def ended(self, seconds: float = PATIENCE_S) -> int:
        assert self._process is not None
        return self._process.wait(seconds)

    def stop(self) -> int | None:
        if not self.alive:
            return None
        self.signal(signal.SIGTERM)
        return self.ended()

    def kill(self) -> None:
        if self.alive:
            self.signal(signal.SIGKILL)
            self.ended()
