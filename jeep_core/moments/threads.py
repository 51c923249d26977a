"""The number of threads with which anything is made that outlives an edit.

A decomposition made with one thread differs from one made with two in its last bits.  If an edit
made it with its own number of threads, which depends on its facts, later edits would get other
bytes after this edit than without it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_thread = threading.local()  # torch keeps its number per thread, too


@contextmanager
def fewer_threads(count: int) -> Iterator[None]:
    """Give matrix products of the calling thread so many threads in the block.

    What is made under `all_threads` has as many as before the outermost such block.
    """
    # read first: torch lets a thread that has not asked for its number adopt another's
    before = torch.get_num_threads()
    outer: int | None = getattr(_thread, "all", None)
    _thread.all = before if outer is None else outer
    torch.set_num_threads(count)
    try:
        yield
    finally:
        _thread.all = outer
        torch.set_num_threads(before)


@contextmanager
def all_threads() -> Iterator[None]:
    """Give matrix products in the block all threads that the calling thread may have.

    They are those that it has already, unless it is in `fewer_threads`.
    """
    own, every = torch.get_num_threads(), every_thread()
    if own == every:
        yield
        return
    torch.set_num_threads(every)
    try:
        yield
    finally:
        torch.set_num_threads(own)


def every_thread() -> int:
    """How many threads there are under `all_threads`."""
    every: int | None = getattr(_thread, "all", None)
    return torch.get_num_threads() if every is None else every
