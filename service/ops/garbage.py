"""When Python collects garbage: not while modules are imported.

Importing a worker's modules makes some 400,000 objects that stay for the process's life.
Collections meanwhile look at all of them time and again, and find next to nothing.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def postponed(*, kept: bool = False) -> Iterator[None]:
    """Collect no garbage in the block; afterwards, also after an error, as before.

    Args:
        kept: what exists at the end is never looked at again.  For the entry point of a process,
            which keeps what it imports: garbage among it would stay, too.
    """
    if not gc.isenabled():  # whoever has postponed it ends that
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        if kept:
            gc.freeze()
        gc.enable()
