"""Files that survive a crash: written aside, fsynced, renamed; locks between processes."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

from pydantic import BaseModel, ValidationError

from service.store.errors import CorruptFile, StoreBusy

TEMPORARY = ".tmp"
"""Suffix of files that were never finished."""

_SEAL = b"sha256_of_the_rest"
_SEALED = re.compile(rb',?"%s":"([0-9a-f]{64})"}\Z' % _SEAL)
_SEAL_BYTES = len(_SEAL) + 71

Model = TypeVar("Model", bound=BaseModel)


def fsync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_new(path: Path, chunks: Iterable[bytes | memoryview]) -> None:
    """Write a file that does not exist yet and fsync it (not its folder)."""
    with path.open("xb") as file:
        for chunk in chunks:
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())


def replace(path: Path, data: bytes) -> None:
    """Set the content of ``path``: readers see the old bytes or the new ones, never a part."""
    with _written_aside(path, data) as temporary:
        temporary.replace(path)
        fsync_folder(path.parent)


def create(path: Path, data: bytes) -> None:
    """Like :func:`replace`, but raises FileExistsError if ``path`` is there."""
    with _written_aside(path, data) as temporary:
        path.hardlink_to(temporary)
        fsync_folder(path.parent)


@contextmanager
def _written_aside(path: Path, data: bytes) -> Iterator[Path]:
    temporary = path.with_name(f".{path.name}.{uuid4().hex}{TEMPORARY}")
    try:
        write_new(temporary, [data])
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def append_line(path: Path, line: bytes) -> None:
    """Append one line durably.  A crash may leave a part of it without its newline."""
    with path.open("ab") as file:
        file.write(line + b"\n")
        file.flush()
        os.fsync(file.fileno())


def read(path: Path, model: type[Model]) -> Model | None:
    """Parse a JSON file, None if there is none; :class:`CorruptFile` names an unreadable one."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CorruptFile(f"{path} cannot be read: {error.strerror}") from None
    try:
        return model.model_validate_json(unsealed(data))
    except ValidationError as error:
        raise CorruptFile(f"{path} is damaged: {error.errors()[0]['msg']}") from None
    except ValueError as error:
        raise CorruptFile(f"{path} is damaged: {error}") from None


def encode(model: BaseModel) -> bytes:
    """The JSON that :func:`read` reads."""
    return sealed(model.model_dump_json().encode())


def sealed(record: bytes) -> bytes:
    """A JSON object with its own hash as its last member, by which any flipped bit is found."""
    comma = b"" if record == b"{}" else b","
    return record[:-1] + comma + b'"%s":"%s"}' % (_SEAL, _sha256(record))


def unsealed(data: bytes) -> bytes:
    """The object without its hash; one that has none (an earlier release wrote it) as it is.

    Raises ValueError if the hash is another.
    """
    found = _SEALED.search(data, max(0, len(data) - _SEAL_BYTES))
    if found is None:
        if _SEAL in data[-_SEAL_BYTES:]:
            raise ValueError("the hash that it was written with cannot be read")
        return data
    record = data[: found.start()] + b"}"
    if _sha256(record) != found.group(1):
        raise ValueError("it does not have the hash that it was written with")
    return record


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest().encode()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Exclude other processes and threads for a moment; waits for them."""
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def held(path: Path, what: str) -> Iterator[None]:
    """Hold a lock as long as the block runs; :class:`StoreBusy` if another process has it.

    The file carries the holder's process id, for the message only: the kernel frees the lock
    when its holder dies.
    """
    with path.open("a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().decode(errors="replace").strip() or "unknown"
            raise StoreBusy(f"{what} already uses this store (process {holder})") from None
        with suppress(OSError):  # a full disk
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), str(os.getpid()).encode())
        yield
