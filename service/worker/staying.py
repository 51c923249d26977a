"""Threads that stay for the next job of a lane.

To start a thread takes longest while another one computes, and an edit of a small model would
start ten of them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_own = threading.local()
T = TypeVar("T")


def hand_in(name: str, count: int, work: Callable[[], T]) -> Future[T]:
    """Let one of at most ``count`` threads of this name do it, the calling thread's own.

    They end with it.  Where no thread can be started, nothing that was handed in is left waiting
    for a later one.
    """
    pools: dict[tuple[str, int], ThreadPoolExecutor] | None = getattr(_own, "pools", None)
    if pools is None:
        pools = _own.pools = {}
    pool = pools.get((name, count))
    if pool is None:
        pool = pools[name, count] = ThreadPoolExecutor(count, thread_name_prefix=name)
    try:
        return pool.submit(work)
    except RuntimeError:  # what it takes in is kept all the same
        del pools[name, count]
        pool.shutdown(cancel_futures=True)
        raise
