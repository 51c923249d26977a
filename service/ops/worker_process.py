"""The worker of ``jeep serve``: a child process that is started again when it dies."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import httpx

from service.ops.early_worker import EarlyWorker, command_of, inherited
from service.settings import EXIT_CONFIG, Settings

STEADY_SECONDS = 60.0
FIRST_DELAY, LONGEST_DELAY = 0.5, 30.0
STOP_SECONDS = 15.0
"""How long the worker may take to stop once it has answered what it had, or is not to any more."""
ENDED_LOOK_S = 0.1
"""How often it is looked whether a worker that stops has ended, or is to hurry."""

Say = Callable[[str], None]


class WorkerProcess:
    """The worker as a child process: started again with backoff when it dies.

    A separate session shields it from a terminal's Ctrl-C; `stop` ends it by its process id.
    """

    def __init__(
        self,
        settings: Settings,
        say: Say,
        ready_url: str,
        on_fatal: Callable[[], None],
        module: str = "service.worker",
        early: EarlyWorker | None = None,
    ) -> None:
        self.fatal = 0
        self._say, self._ready_url, self._on_fatal = say, ready_url, on_fatal
        self._environment = inherited() | settings.environment()
        self._patience_s = settings.drain_s + STOP_SECONDS
        self._module, self._early = module, early
        self._stopping, self._hurries = threading.Event(), False
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._supervise, name="worker-supervisor")

    def start(self) -> None:
        """Start and supervise the worker."""
        self._thread.start()

    def stop(self) -> None:
        """Send SIGTERM, then SIGKILL if that has no effect; returns when the process is gone."""
        with self._lock:
            self._stopping.set()
            process = self._process
        if process is not None:
            process.terminate()
            end, hurried = time.monotonic() + self._patience_s, False
            while not _has_ended(process):
                if self._hurries and not hurried:
                    self._say("told again: what is not answered by now is left")
                    # a second SIGTERM could merge with the first
                    process.send_signal(signal.SIGINT)
                    end, hurried = min(end, time.monotonic() + STOP_SECONDS), True
                if time.monotonic() > end:
                    process.kill()
                    break
        with suppress(RuntimeError):  # a signal came before it began; it will not begin a worker
            self._thread.join()

    def hurry(self) -> None:
        """End the draining of a worker that is being stopped, or will be; for signal handlers."""
        self._hurries = True

    def _supervise(self) -> None:
        delay = FIRST_DELAY
        while (process := self._spawn()) is not None:
            began = time.monotonic()
            self._announce_ready(process)
            code = process.wait()
            if self._stopping.is_set():
                return
            if code == EXIT_CONFIG:
                self.fatal = code
                self._say("the worker cannot work with this configuration (see above): stopping")
                self._on_fatal()
                return
            if time.monotonic() - began > STEADY_SECONDS:
                delay = FIRST_DELAY
            self._say(f"the worker {_ending(code)}, starting it again in {delay:g} s")
            self._stopping.wait(delay)
            delay = min(2 * delay, LONGEST_DELAY)

    def _spawn(self) -> subprocess.Popen[bytes] | None:
        """A new worker process, or None once the service is stopping."""
        with self._lock:
            if self._stopping.is_set():
                return None
            if self._early is None:
                self._process = subprocess.Popen(
                    command_of(self._module),
                    env=self._environment,
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                )
            else:
                self._process, self._early = self._early.begin(self._environment), None
            self._say(f"worker started (process {self._process.pid}), loading the model")
            return self._process

    def _announce_ready(self, process: subprocess.Popen[bytes]) -> None:
        """Announce once that the service is ready; returns then, or when the process is gone."""
        with httpx.Client(timeout=2.0) as client:
            while process.poll() is None and not self._stopping.wait(0.25):
                try:
                    if client.get(self._ready_url).status_code == 200:
                        self._say("ready")
                        return
                except httpx.TransportError:
                    continue


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether it has, after a moment."""
    try:
        process.wait(ENDED_LOOK_S)
    except subprocess.TimeoutExpired:
        return False
    return True


def _ending(code: int) -> str:
    if code == 0:
        return "has ended"
    return f"died ({f'exit code {code}' if code > 0 else signal.Signals(-code).name})"
