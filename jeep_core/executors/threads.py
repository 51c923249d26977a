"""How many threads the matrix products of one thread use.

torch keeps the number for each thread.  What outlives an edit, such as a factor, is made with all
threads: a decomposition made with one differs from one made with two in its last bits.  If an edit
made it with its own number of threads, which depends on its facts, later edits would get other
bytes after this edit than without it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_thread = threading.local()


def use_threads(count: int) -> None:
    """Set the number for the calling thread.

    A thread that has not read its number yet adopts, at its first product, the last one that was
    set anywhere; so it is read first.
    """
    torch.get_num_threads()
    torch.set_num_threads(count)


@contextmanager
def with_threads(count: int) -> Iterator[None]:
    """Use so many for the block, in the calling thread.

    What is made under `all_threads` has as many as before the outermost such block.  A thread that
    takes its first product meanwhile keeps this number, unless it has set one of its own.
    """
    before = torch.get_num_threads()
    outer: int | None = getattr(_thread, "all", None)
    _thread.all = before if outer is None else outer
    use_threads(count)
    try:
        yield
    finally:
        _thread.all = outer
        torch.set_num_threads(before)


@contextmanager
def all_threads() -> Iterator[None]:
    """Use all threads that the calling thread may have, for the block.

    They are those that it has already, unless it is in `with_threads`.
    """
    own = torch.get_num_threads()
    torch.set_num_threads(every_thread())
    try:
        yield
    finally:
        torch.set_num_threads(own)


def every_thread() -> int:
    """How many threads there are under `all_threads`."""
    every: int | None = getattr(_thread, "all", None)
    return torch.get_num_threads() if every is None else every
