"""A worker that is started before its settings are final, and imports its modules meanwhile.

They take most of a service's start.  The worker does nothing else until it is told its settings on
standard input: it opens no store, so it can be ended at any time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from service.settings import CLIENT_VARIABLES, WORKER_ENVIRONMENT

WAIT = "--wait"
"""Argument of a worker that reads its settings from standard input."""


def inherited() -> dict[str, str]:
    """The environment of a worker, without the settings of its service."""
    own = {name: value for name, value in os.environ.items() if name not in CLIENT_VARIABLES}
    return {**WORKER_ENVIRONMENT, **own}


def command_of(module: str, *arguments: str) -> list[str]:
    """The command line that runs a worker's module for as long as this process lives."""
    runner = [sys.executable, "-m", "service.ops.parent_death", str(os.getpid())]
    return [*runner, module, *arguments]


class EarlyWorker:
    """A worker that waits for its settings."""

    def __init__(self, module: str) -> None:
        self._begun, self._has = False, inherited()
        self._process = subprocess.Popen(
            command_of(module, WAIT),
            env=self._has,
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    def begin(self, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """Tell it its environment; the process, which may have ended by itself."""
        self._begun = True
        assert self._process.stdin is not None
        # what it lacks fits into the pipe, which it reads when everything is imported
        new = {name: value for name, value in environment.items() if self._has.get(name) != value}
        with suppress(BrokenPipeError), self._process.stdin as pipe:
            pipe.write(json.dumps(new).encode())
        return self._process

    def cancel(self) -> None:
        """End it, unless it was told to begin."""
        if not self._begun:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.kill()
            self._process.wait()


@contextmanager
def early_worker(module: str = "service.worker") -> Iterator[EarlyWorker]:
    """A worker that imports its modules during the block; one that was never begun ends with it.

    Call it from a thread that lives as long as the process: on Linux the worker ends with that
    thread.
    """
    worker = EarlyWorker(module)
    try:
        yield worker
    finally:
        worker.cancel()


def told_settings() -> bool:
    """For the worker: wait for the settings and take them; False if nobody needs it any more."""
    told = sys.stdin.buffer.read()
    if told:
        os.environ.update(json.loads(told))
    return bool(told)
