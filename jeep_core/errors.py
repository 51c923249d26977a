"""The exceptions of the library.

JeepError
├── InvalidFields       wrong input; carries a problem per field
│   ├── InvalidFacts    … facts that cannot be edited
│   └── InvalidHParams  … hyper-parameters, a preset or an editor name that make no sense
├── MissingMoments      imported second moments lack a layer
├── UnsupportedModel    the model's architecture or weights cannot be edited
├── ModelNotFetched     the hub, or the network to it, does not give the model now
├── UnreadableText      a text file that is not there, not UTF-8, or empty
├── NotExportable       a version that cannot be written in a format
│   ├── RankTooHigh     … as an adapter, within the limits that were given
│   └── MissingProgram  … because a program of others is not installed
├── NumericalError      a value that is not finite, a linear system without a solution
├── WorkersLost         workers that died again and again in the same part of the work
├── NoCluster           a Ray cluster that cannot be used, or not any more
└── Cancelled           the caller asked to stop

Every exception, also of the service, has a ``code`` by which a client can identify it.
"""

from __future__ import annotations

import errno
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


class Coded:
    """Part of an exception: its code, and support for ``pickle`` with any constructor.

    ``code`` is stable, in snake_case; ``service/contracts/codes.py`` says which HTTP status it has.
    """

    code: str = "internal_error"

    def __reduce__(self) -> tuple[Any, ...]:
        """As the message and the attributes, without the constructor's arguments."""
        return _restored, (type(self), getattr(self, "args", ()), vars(self).copy())


def _restored(cls: type[BaseException], args: tuple[Any, ...], kept: dict[str, Any]) -> Any:
    """The exception that ``Coded.__reduce__`` has taken apart."""
    error = cls.__new__(cls, *args)
    error.args = args
    vars(error).update(kept)
    return error


class JeepError(Coded, Exception):
    """Base of everything this library raises on purpose."""

    code = "failed"


@dataclass(frozen=True)
class FieldProblem:
    """A problem of one field: a JSON pointer (``/facts/3/prompt``), a code, a sentence."""

    pointer: str
    code: str
    message: str


class InvalidFields(JeepError):
    """Input with wrong fields."""

    code = "invalid_request"

    def __init__(self, problems: Sequence[FieldProblem]) -> None:
        self.problems = list(problems)
        super().__init__(self._sentence())

    def _sentence(self) -> str:
        return "; ".join(f"{p.pointer}: {p.message}" for p in self.problems)


class InvalidFacts(InvalidFields):
    """Facts that cannot be edited; the message has the first problem, as there may be thousands."""

    code = "invalid_facts"

    def _sentence(self) -> str:
        first = self.problems[0]
        more = f" (and {len(self.problems) - 1} more)" if len(self.problems) > 1 else ""
        return f"{first.pointer}: {first.message}{more}"


class InvalidHParams(InvalidFields):
    """Unknown editors and presets, hyper-parameters out of range, layers the model lacks."""

    code = "invalid_hparams"


class MissingMoments(JeepError):
    """Imported second moments lack a layer that an edit writes."""

    code = "no_moments"


class UnsupportedModel(JeepError):
    """A model that this library does not edit."""

    code = "unsupported_model"


class ModelNotFetched(JeepError):
    """A model of the hub that cannot be had now, and may be later."""

    code = "model_not_fetched"


class UnreadableText(JeepError):
    """A text file that cannot be read; the message names it."""

    code = "unreadable_text"


class NotExportable(JeepError):
    """A version that cannot be written in a format; the message says in which it can."""

    code = "not_exportable"


class RankTooHigh(NotExportable):
    """An adapter within the given limits cannot hold a version; ``needed`` is the rank it takes."""

    code = "rank_too_high"

    def __init__(self, message: str, needed: int) -> None:
        self.needed = needed
        super().__init__(message)


class MissingProgram(NotExportable):
    """A format needs a program that is not installed; ``program`` is its name."""

    code = "missing_program"

    def __init__(self, message: str, program: str) -> None:
        self.program = program
        super().__init__(message)


class NumericalError(JeepError):
    """A value that is not finite, or a linear system without a trustworthy solution.

    The message names the layer, or another quantity, and says what to do.
    """

    code = "numerical_error"


class WorkersLost(JeepError):
    """Processes that do a part of the work died in it again and again, or cannot be started."""

    code = "workers_lost"


class NoCluster(JeepError):
    """The Ray cluster cannot be reached, went away, or lacks the resources that workers need."""

    code = "no_cluster"


class Cancelled(JeepError):
    """The caller asked a long computation to end (`jeep_core.monitor.Monitor.check`)."""

    code = "cancelled"


_MEMORY = re.compile(
    r"allocate memory|not enough memory: you tried|std::bad_alloc|cuda_error_out_of_memory"
    r"|(error:|cuda|hip|xpu|backend) out of memory\b(?! bounds)|\bcu[a-z]+_(status_)?alloc_failed\b"
)
"""How PyTorch, and the libraries and drivers below it, say it, in small letters."""
_PASSING = {
    getattr(errno, name)
    for name in (
        # memory, descriptors, processes, locks
        *("ENOMEM", "EMFILE", "ENFILE", "EAGAIN", "EINTR", "EBUSY", "ENOBUFS", "ENOLCK"),
        # disks, also those of another host
        *("ENOSPC", "EDQUOT", "EFBIG", "EIO", "ESTALE", "EREMOTEIO", "ENOTCONN", "ESHUTDOWN"),
        # networks
        *("ENETDOWN", "ENETUNREACH", "ENETRESET", "ECONNABORTED", "ECONNRESET", "ECONNREFUSED"),
        *("EHOSTDOWN", "EHOSTUNREACH", "ETIMEDOUT", "EPIPE"),
    )
    if hasattr(errno, name)
}
_BROKEN_OFF = (
    ConnectionResetError,
    ConnectionAbortedError,
    ConnectionRefusedError,
    BrokenPipeError,
    TimeoutError,
)
"""Some libraries raise them without a number."""
_NAMES = {socket.EAI_AGAIN, socket.EAI_FAIL, socket.EAI_MEMORY, socket.EAI_SYSTEM}
"""Errors of looking up a name that another try may not meet."""
_NUMBER = re.compile(r"\bos error (\d+)\b")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory of the device or of the host was not enough.

    There is no type for it: PyTorch raises a ``RuntimeError`` that names its allocator or says what
    the driver said, a failed ``mmap`` an ``OSError``, and C code that was given no memory may fail
    without an exception, for which Python raises a ``SystemError``.
    """
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError) or type(error).__name__ == "SafetensorError":
        return _number(error) == errno.ENOMEM
    said = str(error).lower()
    if isinstance(error, SystemError):
        return "without exception set" in said
    # by its name: this module is also imported where PyTorch is not
    named = type(error).__name__ == "OutOfMemoryError" or _MEMORY.search(said) is not None
    return isinstance(error, RuntimeError) and named


def is_passing(error: BaseException | None) -> bool:
    """Whether an error, or its cause, is of the machine, a disk or a network as they are now.

    Memory, file descriptors or room were not enough, a file system or another host did not answer,
    or a disk could not read.  The same may work later, so it says nothing of what was asked for:
    no file is damaged, and no setting is wrong, because of it.
    """
    while error is not None:
        if is_out_of_memory(error) or isinstance(error, _BROKEN_OFF):
            return True
        # numbers of their own, which on some systems are those of other errors
        if isinstance(error, socket.gaierror):
            return error.errno in _NAMES
        if _number(error) in _PASSING:
            return True
        error = error.__cause__
    return False


def is_no_damage(error: BaseException) -> bool:
    """Whether a file could not be read for what says nothing of its bytes: something that passes,
    or that this user may not."""
    return isinstance(error, PermissionError) or is_passing(error)


def _number(error: BaseException) -> int | None:
    """The number of the operating system's error; libraries in Rust say it in their text alone."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    found = _NUMBER.search(str(error))
    return None if found is None else int(found.group(1))


def reason_of(error: BaseException) -> str:
    """The message of another library's exception, in one line; a bare key gets its type."""
    kind = type(error).__name__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return kind
    text = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    return f"{kind}: {text}" if isinstance(error, LookupError) else text.rstrip(".:")
