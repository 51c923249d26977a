"""Running out of memory: told apart from other failures, and given back to those who serve."""

from __future__ import annotations

import torch

CPU_ALLOCATOR = "DefaultCPUAllocator"
"""PyTorch raises a bare RuntimeError that names it when the host's memory is used up."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory of the device or of the host was not enough."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and CPU_ALLOCATOR in str(error)


def release_cached() -> None:
    """Give the device's free blocks back, which a failed job has left in pieces."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
