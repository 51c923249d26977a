"""Errors of other libraries, told apart."""

from __future__ import annotations

import errno

import pytest
import torch
from redis.exceptions import OutOfMemoryError as ServersMemory

from jeep_core.errors import UnsupportedModel, is_out_of_memory
from jeep_core.models.checkpoints.refusals import refused_as

SCARCE = [
    MemoryError(),
    torch.OutOfMemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("unable to mmap 9 bytes from file <w>: Cannot allocate memory (12)"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    SystemError("error return without exception set"),
]
OTHERS = [
    RuntimeError("size mismatch"),
    OSError(errno.ENOSPC, "No space left on device"),
    SystemError("bad argument to internal function"),
    ValueError("allocate memory"),
    ServersMemory("of the queue's server"),
]


@pytest.mark.parametrize("error", SCARCE, ids=repr)
def test_a_lack_of_memory_is_known_in_whatever_way_it_is_said(error: Exception) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize("error", OTHERS, ids=repr)
def test_other_errors_are_no_lack_of_memory(error: Exception) -> None:
    assert not is_out_of_memory(error)


@pytest.mark.parametrize("error", SCARCE, ids=repr)
def test_a_machine_without_enough_memory_is_no_fault_of_a_folder(error: Exception) -> None:
    with pytest.raises(MemoryError), refused_as("the model cannot be loaded", "copy it again"):
        raise error


def test_another_error_says_what_to_do_about_the_folder() -> None:
    sentence = r"the model cannot be loaded \(size mismatch\): copy it again"
    with (
        pytest.raises(UnsupportedModel, match=sentence),
        refused_as("the model cannot be loaded", "copy it again"),
    ):
        raise OTHERS[0]
