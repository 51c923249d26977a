"""Work of a job that runs beside its main part, in a thread of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import wait
from contextlib import contextmanager
from threading import Event
from typing import TypeVar

from jeep_core.executors.threads import use_threads
from jeep_core.monitor import stop_if
from service.worker.staying import hand_in

T = TypeVar("T")


@contextmanager
def aside(work: Callable[[Callable[[], None]], T], threads: int) -> Iterator[Callable[[], T]]:
    """Run ``work`` beside the block, with so many threads for its matrix products.

    It is given a check to call now and then, which raises `Cancelled` once the block has failed.
    What is yielded waits for its result, and raises what it has raised; the block does not end
    before it.
    """
    stopped = Event()

    def run() -> T:
        use_threads(threads)
        return work(stop_if(stopped.is_set))

    found = hand_in("aside", 1, run)
    try:
        yield found.result
    except BaseException:
        stopped.set()
        raise
    finally:
        wait([found])
