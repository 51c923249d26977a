"""Workers of a forked ``jeep serve``: forks as well, of a process that it keeps for that.

To its supervisor they look like the programs that it starts otherwise.
"""

from __future__ import annotations

import contextlib
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from types import SimpleNamespace
from typing import NoReturn

POLL_S = 0.02


def fork_them() -> None:
    """Let the supervisor of this process fork its workers.  Call it before any thread runs.

    They have everything imported, so none is started before the others for that.
    """
    import service.cli.commands.running
    import service.ops.worker_process

    ours, theirs = Pipe()
    if os.fork() == 0:
        ours.close()
        _keep_forking(theirs)
    theirs.close()
    forked = SimpleNamespace(
        Popen=lambda command, env, **_: _Worker(ours, command, env),
        DEVNULL=subprocess.DEVNULL,
        TimeoutExpired=subprocess.TimeoutExpired,
    )
    service.ops.worker_process.subprocess = forked  # type: ignore[attr-defined]
    service.cli.commands.running.early_worker = contextlib.nullcontext  # type: ignore[assignment]


def _keep_forking(connection: Connection) -> NoReturn:
    """Start a worker for every module and environment that is sent; send its id, then its end."""
    from service.ops.parent_death import death_signal

    arm = death_signal(signal.SIGKILL)
    arm()
    os.setsid()  # Ctrl-C is for the service
    while True:
        with contextlib.suppress(ChildProcessError):
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid:
                connection.send((pid, os.waitstatus_to_exitcode(status)))
        try:
            if not connection.poll(POLL_S):
                continue
            module, environment = connection.recv()
        except EOFError:
            os._exit(0)
        pid = os.fork()
        if pid == 0:
            arm()
            connection.close()
            os.setsid()
            os.environ.clear()
            os.environ.update(environment)
            _become(module)
        connection.send((pid, None))


def _become(module: str) -> NoReturn:
    """Run a module as a program, to its exit code."""
    code: object = 0
    try:
        sys.argv = [module]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)


class _Worker:
    """What the supervisor uses of `subprocess.Popen`."""

    def __init__(
        self, connection: Connection, command: Sequence[str], environment: Mapping[str, str]
    ) -> None:
        *_, runner, parent, module = command
        assert (runner, parent) == ("service.ops.parent_death", str(os.getpid()))
        self._connection, self._lock = connection, threading.Lock()
        self._code: int | None = None
        connection.send((module, dict(environment)))
        self.pid, _ = connection.recv()

    def poll(self) -> int | None:
        with self._lock:
            while self._code is None and self._connection.poll():
                pid, code = self._connection.recv()
                assert pid == self.pid
                self._code = code
            return self._code

    def wait(self, timeout: float = float("inf")) -> int:
        give_up = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > give_up:
                raise subprocess.TimeoutExpired("worker", timeout)
            time.sleep(POLL_S)
        return code

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)
