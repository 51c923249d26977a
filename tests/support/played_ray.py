"""Ray as far as the driver of a cluster uses it, played: no actor is a process."""

from __future__ import annotations

import queue
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from jeep_core.executors.ray.driver import Driver
from jeep_core.executors.ray.seats import Seat
from jeep_core.executors.ray.terms import ClusterTerms
from jeep_core.executors.version import Version
from jeep_core.executors.wire import unpack

RAY_IN_THREADS = str(Path(__file__).parent / "executors" / "ray_in_threads")
"""A folder whose module `ray` has actors that are threads of the driver: for ``sys.path``."""
TERMS = ClusterTerms("10.0.0.1:6379", 2, 1.0, 0.0, 1, None, "", {})


class RayError(Exception):
    """What all of Ray's exceptions derive from."""


class RayActorError(RayError):
    """An actor is gone."""


class OutOfMemoryError(RayError):
    """Ray's memory monitor has killed it; of no kind with the one above."""


class ObjectLostError(RayError):
    """Its answer is gone."""


class RaySystemError(RayError):
    """Something is wrong with the cluster."""


class LocalRayletDiedError(RayError):
    """This machine is no node any more."""


class TaskMemoryError(RayError, MemoryError):
    """As Ray raises what was raised in an actor."""


class Actors:
    """Ray as far as the driver uses it here: every call is a new reference.

    ``failed`` are the references that have an exception for their answer; ``waited`` is how long
    answers were waited for, in seconds each; ``put_in`` is what was put into its store, ``made``
    are all actors.
    """

    exceptions = SimpleNamespace(
        RayError=RayError,
        RayActorError=RayActorError,
        RaySystemError=RaySystemError,
        LocalRayletDiedError=LocalRayletDiedError,
    )

    def __init__(self) -> None:
        self.killed: list[Any] = []
        self.failed: dict[Any, Exception] = {}
        self.waited: list[float] = []
        self.put_in: dict[Any, bytes] = {}
        self.made: list[Any] = []

    def put(self, data: bytes) -> Any:
        self.put_in[ref := object()] = data
        return ref

    def get(self, ref: Any) -> Any:
        raise self.failed[ref]

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 1.0, "node:10.0.0.1": 1.0}

    def remote(self, cls: type) -> Any:
        def start(*_: Any) -> Any:
            self.made.append(actor())
            return self.made[-1]

        return SimpleNamespace(options=lambda **more: SimpleNamespace(remote=start))

    def wait(self, refs: list[Any], num_returns: int, timeout: float) -> tuple[list[Any], Any]:
        self.waited.append(timeout)
        return [ref for ref in refs if ref in self.failed], []

    def kill(self, actor: Any) -> None:
        self.killed.append(actor)


def actor() -> Any:
    """An actor that remembers what it was sent to begin with, and never answers by itself."""
    sent: list[tuple[bytes, Any]] = []

    def begin(message: bytes, version: Any) -> Any:
        sent.append((message, version))
        return object()

    call = SimpleNamespace(remote=lambda *_: object())
    return SimpleNamespace(
        ready=call,
        begin=SimpleNamespace(remote=begin),
        work=call,
        stop=call,
        progress=call,
        sent=sent,
    )


def version(key: str) -> Version:
    """A version without matrices."""
    return Version(key, {}, {}, {})


def prepares(driver: Driver, run: int, unit: int = 0) -> Seat:
    """Have the first actor prepared for a run."""
    driver._heard("begin", run, "task", None, version("v1") if run == 1 else "v1")
    driver._heard("unit", run, unit, "facts")
    driver._fill()
    seat = driver._seats[0]
    seat.is_ready = True
    driver._hand_out()
    assert seat.beginning is not None
    return seat


def said(pipe: Connection) -> list[Any]:
    """All that the driver has said since but that runs have begun."""
    found = []
    while pipe.poll():
        kind, *rest = unpack(pipe.recv_bytes())
        found += [] if kind == "begun" else [(kind, *rest)]
    return found


def turns(driver: Driver, count: int) -> list[float]:
    """Let it go round so often, without hearing anything; how long it waited to, in seconds."""
    heard, waited = iter(range(count)), list[float]()

    def get(timeout: float) -> None:
        for _ in heard:
            waited.append(timeout)
            raise queue.Empty

    driver._inbox, driver._source = SimpleNamespace(get=get), cast(Any, "a model")
    driver.serve()
    return waited
