"""Memory of the process: giving back what a job no longer needs."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import torch


def release_cached() -> None:
    """Release the device's cached blocks, which a failed job has left fragmented."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def give_back_freed() -> None:
    """Give memory that has been freed back to the system.

    The C library keeps freed blocks for later ones: after a probe or an edit these are hundreds
    of megabytes.  Does nothing where it cannot be asked to.
    """
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@cache
def _malloc_trim() -> Any:
    """The function of the GNU C library, or None with another one."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None)
