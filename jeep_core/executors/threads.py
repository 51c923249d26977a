"""How many threads the matrix products of one thread use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def use_threads(count: int) -> None:
    """Set the number for the calling thread.

    torch keeps it for each thread, but a thread that has not read it yet adopts, at its first
    product, the last one that was set anywhere; so it is read first.
    """
    torch.get_num_threads()
    torch.set_num_threads(count)


@contextmanager
def with_threads(count: int) -> Iterator[None]:
    """Use so many for the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
