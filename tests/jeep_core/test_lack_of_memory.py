"""Errors of other libraries, told apart: a lack of memory, and what else passes."""

from __future__ import annotations

import errno
import socket

import pytest
import torch
from redis.exceptions import ConnectionError as NoServer
from redis.exceptions import OutOfMemoryError as ServersMemory
from safetensors import SafetensorError

from jeep_core.errors import JeepError, UnsupportedModel, is_out_of_memory, is_passing
from jeep_core.models.checkpoints.refusals import refused_as

SCARCE = [
    MemoryError(),
    torch.OutOfMemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("unable to mmap 9 bytes from file <w>: Cannot allocate memory (12)"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    OSError("Cannot allocate memory (os error 12)"),
    SystemError("error return without exception set"),
    torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be"),
    RuntimeError("CUDA driver error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate`"),
    RuntimeError("MPS backend out of memory (MPS allocated: 5.05 GB, max allowed: 9.07 GB)"),
    RuntimeError("std::bad_alloc"),
    SafetensorError("I/O error: Cannot allocate memory (os error 12)"),
]
OTHERS = [
    RuntimeError("size mismatch"),
    OSError(errno.ENOSPC, "No space left on device"),
    SystemError("bad argument to internal function"),
    ValueError("allocate memory"),
    ServersMemory("of the queue's server"),
    RuntimeError("memory format option is only supported by strided tensors"),
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("the index is out of memory bounds"),
    torch.AcceleratorError("CUDA error: invalid device ordinal"),
    SafetensorError("Error while deserializing header: out of memory"),
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


def of(name: str) -> OSError:
    return OSError(getattr(errno, name), "of the system")


def caused(cause: Exception) -> JeepError:
    error = JeepError("it cannot be read")
    error.__cause__ = cause
    return error


NUMBERS = ["EMFILE", "ENFILE", "EAGAIN", "ENOSPC", "EDQUOT", "ESTALE", "EIO", "ENETUNREACH"]
PASSING = [
    *SCARCE,
    *map(of, NUMBERS),
    ConnectionResetError("no number"),
    TimeoutError(),
    socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"),
    SafetensorError("I/O error: No space left on device (os error 28)"),
    caused(of("EIO")),
]
LASTING = [
    *(error for error in OTHERS if getattr(error, "errno", None) != errno.ENOSPC),
    *map(of, ["ENOENT", "EACCES", "EROFS", "EISDIR", "EINVAL"]),
    socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
    FileNotFoundError("No such file or directory: w.safetensors"),
    SafetensorError("Error while deserializing header: InvalidHeaderLength"),
    NoServer("Connection refused"),
    caused(ValueError("no JSON")),
]


@pytest.mark.parametrize("error", PASSING, ids=repr)
def test_what_the_machine_or_a_network_lacks_now_passes(error: Exception) -> None:
    assert is_passing(error)


@pytest.mark.parametrize("error", LASTING, ids=repr)
def test_nothing_else_passes(error: Exception) -> None:
    assert not is_passing(error)


@pytest.mark.parametrize("name", NUMBERS)
def test_a_disk_that_does_not_answer_is_no_fault_of_a_folder(name: str) -> None:
    with pytest.raises(OSError, match="of the system") as caught, refused_as("it is bad", "copy"):
        raise of(name)
    assert caught.value.errno == getattr(errno, name)
