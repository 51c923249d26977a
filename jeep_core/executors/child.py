"""The life of a worker process: what it is sent, what it answers, when it ends.

Messages are tuples that begin with their kind.  It is sent ``load``, then for each run ``begin``
and, one at a time, ``unit``.  Bytes come from the process that has started it, through a pipe that
no other has.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from transformers.utils import logging as transformers_logging

from jeep_core.errors import Cancelled, is_out_of_memory, reason_of
from jeep_core.executors.threads import use_threads
from jeep_core.executors.version import load_source
from jeep_core.executors.wire import pack, unpack
from jeep_core.executors.workshop import Workshop, sendable
from jeep_core.monitor import Monitor

PAUSE, STOPPED, HELD = 0, 1, 2
"""Places of the flags that a worker shares with its caller: since when to wait, in nanoseconds of
the monotonic clock (0: not now); the last run that was given up; and for how long the caller was
made to wait before, in nanoseconds."""
FLAGS = 3
LOOK_S = 0.5
"""How often a worker looks whether its caller is still there."""
TELL_S = 0.1
"""How often it says how far it is."""
NAP_S = 0.002


@dataclass(frozen=True)
class Terms:
    """How a worker process works.

    ``threads`` of its matrix products; ``memory_bytes`` it may have in all, None: no limit;
    ``niceness``: by how much others go first.
    """

    threads: int = 1
    memory_bytes: int | None = None
    niceness: int = 10


class Line:
    """The worker's end of the pipe."""

    def __init__(self, pipe: Connection, flags: Any) -> None:
        self._pipe, self._flags = pipe, flags
        self._looked = self._told = 0.0

    def receive(self) -> Any:
        """The next message; the process ends if there will be none."""
        try:
            return unpack(self._pipe.recv_bytes())
        except (EOFError, OSError):
            sys.exit(0)

    def send(self, *message: Any) -> None:
        """Send a message; the process ends if nobody is there."""
        try:
            self._pipe.send_bytes(pack(message))
        except (BrokenPipeError, OSError):
            leave()

    def monitor(self, run: int, number: int) -> Monitor:
        """The caller of a run, as a unit sees it."""

        def report(phase: str, done: int, total: int) -> None:
            now = time.monotonic()
            if now - self._told >= TELL_S:
                self._told = now
                self.send("progress", run, number, done)

        def check() -> None:
            if self._flags[STOPPED] >= run:
                raise Cancelled("the work was given up")
            now = time.monotonic()
            if now - self._looked >= LOOK_S:
                self._looked = now
                # nothing is sent to a worker that is busy: what can be read is the end
                if self._pipe.poll():
                    leave()

        def give_way() -> None:
            check()
            while self._flags[PAUSE]:
                time.sleep(NAP_S)
                check()

        return Monitor(report, check, give_way)


def main(pipe: Connection, flags: Any, terms: Terms) -> None:
    """Work until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller ends its workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.nice(terms.niceness)
    use_threads(terms.threads)
    if terms.memory_bytes is not None:
        # what a process has written to, or may: not the mapped files of a model
        _, most = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (terms.memory_bytes, most))
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    serve(Line(pipe, flags))


def serve(line: Line) -> None:
    """Answer messages until there are none."""
    shop: Workshop | None = None
    while True:
        kind, *rest = line.receive()
        try:
            if kind == "load":
                shop = None
                shop = Workshop(load_source(rest[0]))
                line.send("ready")
            elif kind == "begin":
                run, task, common, version = rest
                assert shop is not None
                unlike = shop.begin(task, common, version)
                line.send("unlike", run, unlike) if unlike else line.send("begun", run)
            else:
                assert shop is not None
                work_on(line, shop, *rest)
        except Exception as error:
            limit, most = resource.getrlimit(resource.RLIMIT_DATA)
            # to say what is missing takes some memory, too
            resource.setrlimit(resource.RLIMIT_DATA, (most, most))
            of = [] if kind == "load" else rest[:1]  # the run that it could not be prepared for
            line.send("refused", sendable(_explained(error, limit)), *of)
            resource.setrlimit(resource.RLIMIT_DATA, (limit, most))


def _explained(error: Exception, limit: int) -> Exception:
    """The error of a worker that cannot begin; of one whose memory does not hold the model."""
    if limit == resource.RLIM_INFINITY or not is_out_of_memory(error):
        return error
    return MemoryError(
        f"the model does not fit into a worker's {limit >> 20} MiB: {reason_of(error)}"
    )


def work_on(line: Line, shop: Workshop, run: int, number: int, unit: Any) -> None:
    """Do a unit and say how it went."""
    try:
        result = shop.work(unit, line.monitor(run, number))
    except Cancelled:
        line.send("stopped", run, number)
    except BaseException as error:
        line.send("failed", run, number, sendable(error))
    else:
        line.send("done", run, number, result)
    finally:
        trim()


def trim() -> None:
    """Give memory that has been freed back to the system, where the C library can be asked to."""
    if sys.platform == "linux":
        give_back = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if give_back is not None:
            give_back(0)


def leave() -> None:
    """End this process at once: there is nobody to work for, and nothing to be put in order."""
    os._exit(0)
