"""The number of threads for the matrix products of each lane."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from jeep_core.models.loading import LoadedModel

SMALL_MODEL = 100_000_000
"""Parameters up to which one thread is fastest for work too short to be split."""
FEW_FACTS = 4


def use_threads(count: int) -> None:
    """Set how many threads the matrix products of the calling thread may use.

    torch keeps the number per thread, but a thread that has not read it yet adopts, at its
    first product, the last one set anywhere; so it is read first.
    """
    torch.get_num_threads()
    torch.set_num_threads(count)


def decode_threads(base: LoadedModel) -> int | None:
    """Threads of the decoding thread's matrix products; None leaves torch's own number."""
    return 1 if _small(base) else None


@contextmanager
def edit_threads(base: LoadedModel, facts: int) -> Iterator[None]:
    """Use one thread while a few facts of a small model are edited."""
    before = torch.get_num_threads()
    if facts <= FEW_FACTS and _small(base):
        use_threads(1)
    try:
        yield
    finally:
        use_threads(before)


def _small(base: LoadedModel) -> bool:
    size = sum(parameter.numel() for parameter in base.model.parameters())
    return base.device.type == "cpu" and size <= SMALL_MODEL
