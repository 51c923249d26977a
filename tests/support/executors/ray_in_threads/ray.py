"""Ray as far as the driver of a cluster uses it, with actors that are threads of the driver.

A folder that is put before others on ``sys.path`` makes this the module ``ray``, also in the
process that speaks to the cluster: a `RayCluster` works on it without Ray.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from types import SimpleNamespace
from typing import Any


class RayError(Exception):
    """What all of Ray's exceptions derive from."""


class RaySystemError(RayError):
    """Something is wrong with the cluster."""


class LocalRayletDiedError(RayError):
    """This machine is no node any more."""


exceptions = SimpleNamespace(
    RayError=RayError, RaySystemError=RaySystemError, LocalRayletDiedError=LocalRayletDiedError
)


def init(**_: Any) -> None:
    """Join the cluster: there is nothing to be joined."""


def shutdown() -> None:
    """Leave it."""


class Handle:
    """An actor: its calls begin in their order, so many at a time."""

    def __init__(self, cls: type, arguments: Sequence[Any], max_concurrency: int) -> None:
        self._pool = ThreadPoolExecutor(max_concurrency)
        self._made = self._pool.submit(cls, *arguments)

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> Future[Any]:
            return self._pool.submit(self._call, name, arguments)

        return SimpleNamespace(remote=call)

    def _call(self, name: str, arguments: Sequence[Any]) -> Any:
        given = [one.result() if isinstance(one, Future) else one for one in arguments]
        return getattr(self._made.result(), name)(*given)


def remote(cls: type) -> Any:
    """A class whose instances are actors."""

    def options(max_concurrency: int, **_: Any) -> Any:
        return SimpleNamespace(
            remote=lambda *arguments: Handle(cls, arguments, max_concurrency=max_concurrency)
        )

    return SimpleNamespace(options=options)


def put(value: Any) -> Future[Any]:
    """A reference to a value."""
    found: Future[Any] = Future()
    found.set_result(value)
    return found


def get(ref: Future[Any]) -> Any:
    """What a reference stands for."""
    return ref.result()


def wait(refs: list[Any], num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
    """Those that are there, and the others."""
    done, rest = wait_for(refs, timeout, FIRST_COMPLETED)
    return list(done), list(rest)


def kill(actor: Handle) -> None:
    """End an actor once it has done what it does."""
    actor._pool.shutdown(wait=False, cancel_futures=True)


def cluster_resources() -> dict[str, float]:
    """All that the cluster has."""
    return {"CPU": 4.0}
