"""Files that survive a crash (written to a temporary file, then renamed), and process locks."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

from pydantic import BaseModel, ValidationError

from jeep_core.spec.finite import check_record
from jeep_core.storage.records import sealed, unsealed
from service.store.errors import CorruptFile, StoreBusy

TEMPORARY = ".tmp"
"""Suffix of files that were never finished."""
_PARTIAL = ".partial"
"""Suffix of what ``jeep_core.storage`` is writing."""
STEP_NS = 50_000_000
"""A file or folder that was changed less than this ago may change again without another time."""
Stamp = tuple[int, int, int] | None
"""Inode, size and time of change of a file, None without one."""

NOT_A_FILE = (IsADirectoryError, NotADirectoryError)
"""Reading raises them where something else has the file's name, which no other try changes."""
OF_CONTENT = {errno.EINVAL, errno.EISDIR, errno.ENOTDIR}
"""Numbers of errors of reading a damaged file: the first if it is said to have absurd places."""
OF_ONE_FILE = {errno.EIO, errno.EACCES, errno.EPERM}
"""Numbers of errors that are one file's own: others can be read meanwhile."""
Opener = Callable[[str, int], int]
"""Opens a file for the built-in ``open``."""
Model = TypeVar("Model", bound=BaseModel)


def fsync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


PRIVATE = 0o600
"""Mode of files that only the service's user reads: API keys, the audit log."""


def private(path: str, flags: int) -> int:
    """An ``opener`` of files with the mode `PRIVATE`.

    What root makes belongs to the folder's owner, or the service could not read it.
    """
    descriptor = os.open(path, flags, PRIVATE)
    if os.geteuid() == 0:
        owner = Path(path).parent.stat()
        with suppress(OSError):  # a container without this right of root
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
    return descriptor


def make_private(*paths: Path) -> None:
    """Give files the mode `PRIVATE`, as far as they are there and ours."""
    for path in paths:
        with suppress(OSError):
            if stat.S_IMODE(path.stat().st_mode) != PRIVATE:
                path.chmod(PRIVATE)


def write_new(
    path: Path, chunks: Iterable[bytes | memoryview], opener: Opener | None = None
) -> None:
    """Write a file that does not exist yet and fsync it (not its folder)."""
    with open(path, "xb", opener=opener) as file:
        for chunk in chunks:
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())


def replace(path: Path, data: bytes, opener: Opener | None = None) -> None:
    """Set the content of ``path``: readers see the old bytes or the new ones, never a part."""
    with _written_aside(path, data, opener) as temporary:
        temporary.replace(path)
        fsync_folder(path.parent)


def create(path: Path, data: bytes, opener: Opener | None = None) -> None:
    """Like :func:`replace`, but raises FileExistsError if ``path`` is there."""
    with _written_aside(path, data, opener) as temporary:
        path.hardlink_to(temporary)
        fsync_folder(path.parent)


@contextmanager
def _written_aside(path: Path, data: bytes, opener: Opener | None) -> Iterator[Path]:
    temporary = path.with_name(f".{path.name}.{uuid4().hex}{TEMPORARY}")
    try:
        write_new(temporary, [data], opener)
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def file_stamp(path: Path) -> Stamp:
    """By which it is seen that a file was written or replaced."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def inside(folder: Path, name: str) -> Path:
    """``folder/name``; ValueError for a name that leads out of the folder."""
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ValueError(f"{name!r} leads out of the store")
    return path


def append_line(path: Path, line: bytes) -> None:
    """Append one line durably.  A crash may leave a part of it without its newline."""
    with path.open("ab") as file:
        file.write(line + b"\n")
        file.flush()
        os.fsync(file.fileno())


def read(path: Path, model: type[Model]) -> Model | None:
    """Parse a JSON file, None if there is none.

    Raises:
        CorruptFile: its content is damaged, or it is no file.
        OSError: it cannot be read now, which says nothing of what is in it.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except NOT_A_FILE as error:
        raise CorruptFile(f"{path} cannot be read: {error.strerror}") from None
    try:
        return model.model_validate_json(unsealed(data))
    except ValidationError as error:
        first = error.errors()[0]
        field = "/".join(map(str, first["loc"]))
        where = f"{field}: " if field else ""
        raise CorruptFile(f"{path} is damaged: {where}{first['msg']}") from None
    except ValueError as error:
        raise CorruptFile(f"{path} is damaged: {error}") from None


def difference(path: Path, sha256: str | None) -> str | None:
    """Return the error of a file that must exist, and have this hash if one is given, else None.

    Raises:
        OSError: it cannot be read now.
    """
    try:
        if sha256 is None:
            path.stat()
            return None
        found = sha256_of(path)
    except FileNotFoundError:
        return "is missing"
    except NOT_A_FILE as error:
        return f"cannot be read: {error.strerror}"
    return None if found == sha256 else "is damaged: it has another hash"


def sha256_of(path: Path) -> str:
    """The hash of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_unfinished(name: str) -> bool:
    """Whether a file of this name is being written aside, or was, by a process that has ended."""
    return name.startswith(".") and name.endswith((TEMPORARY, _PARTIAL))


def encode(model: BaseModel) -> bytes:
    """The JSON that :func:`read` reads.

    Raises:
        NumericalError: a number is not finite: JSON would hold ``null``, which cannot be read back.
    """
    check_record(model, type(model).__name__.lower())
    return sealed(model.model_dump_json().encode())


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock for the block, waiting for other processes and threads."""
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
