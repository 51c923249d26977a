"""The life of an actor: it has the model, and does one unit at a time."""

from __future__ import annotations

import os
import resource
import threading
import time

from transformers.utils import logging as transformers_logging

from jeep_core.errors import Cancelled
from jeep_core.executors.ray.beside import NOWHERE, Where, where
from jeep_core.executors.threads import use_threads
from jeep_core.executors.version import Source, load_source
from jeep_core.executors.wire import pack, unpack
from jeep_core.executors.workshop import Workshop, sendable
from jeep_core.monitor import Monitor

NAP_S = 0.005


class Actor:
    """One actor; two threads of it may be called, one of which works.

    Answers are data, exceptions too: Ray would wrap them.  An actor that was told to rest waits
    before its next matrix.
    """

    def __init__(self, source: Source, threads: int, memory_bytes: int | None) -> None:
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        self._threads = threads
        if memory_bytes is not None:
            resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
        self._working = threading.Lock()
        self._stopped = self._done = 0
        self._rests_until = 0.0
        self._failed: BaseException | None = None
        self._where = NOWHERE
        try:
            base = load_source(source)
            self._shop, self._where = Workshop(base), where(base.devices)
        except Exception as error:
            self._failed = sendable(error)

    def ready(self) -> tuple[int, bytes, Where]:
        """The actor's process id; why it cannot work, pickled, if it cannot; where it computes."""
        return os.getpid(), pack(self._failed), self._where

    def begin(self, message: bytes, version: bytes | None) -> bytes:
        """Prepare for a run: task, common data and the key of its version, which is given where
        the actor does not have it.  The matrices to be sent whole, or an error, pickled.
        """
        with self._working:
            use_threads(self._threads)
            try:
                task, common, key = unpack(message)
                return pack(
                    self._shop.begin(task, common, key if version is None else unpack(version))
                )
            except Exception as error:
                return pack(sendable(error))

    def work(self, run: int, unit: bytes) -> bytes:
        """How a unit went, and its result or its error, pickled."""
        with self._working:
            use_threads(self._threads)
            self._done = 0
            try:
                found = "done", self._shop.work(unpack(unit), self._monitor(run))
            except Cancelled:
                return pack(("stopped", None))
            except Exception as error:
                return pack(("failed", sendable(error)))
            return pack(found)

    def progress(self) -> int:
        """How much of the unit is done."""
        return self._done

    def stop(self, run: int) -> None:
        """Give up this run and those before it."""
        self._stopped = max(self._stopped, run)

    def rest(self, seconds: float) -> None:
        """Leave the processor to others for so long, from now on or after the rest that goes on."""
        self._rests_until = max(self._rests_until, time.monotonic()) + seconds

    def _monitor(self, run: int) -> Monitor:
        def report(phase: str, done: int, total: int) -> None:
            self._done = done

        def check() -> None:
            if self._stopped >= run:
                raise Cancelled("the work was given up")

        def give_way() -> None:
            check()
            while (left := self._rests_until - time.monotonic()) > 0:
                time.sleep(min(left, NAP_S))
                check()

        return Monitor(report, check, give_way)
