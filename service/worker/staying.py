"""Threads that stay for the next job of a lane.

To start a thread beside one that computes takes about a millisecond, and an edit of a small model
would start ten of them.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

_own = threading.local()


def staying(name: str, count: int) -> ThreadPoolExecutor:
    """At most ``count`` threads of this name, the calling thread's own; they end with it.

    They are not to be shut down: who hands in work waits for that.
    """
    pools: dict[tuple[str, int], ThreadPoolExecutor] | None = getattr(_own, "pools", None)
    if pools is None:
        pools = _own.pools = {}
    if (name, count) not in pools:
        pools[name, count] = ThreadPoolExecutor(count, thread_name_prefix=name)
    return pools[name, count]
