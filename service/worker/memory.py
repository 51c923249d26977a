"""Running out of memory: recognised among other failures, and freed for the other lanes."""

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
    """Release the device's cached blocks, which a failed job has left fragmented."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
