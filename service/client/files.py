"""Files of a download: their folder, held by one download at a time, and their hashes."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from jeep_core.exports.folders import DamagedExport, read_record
from service.contracts.schemas.exports import ExportFile

StrPath = str | os.PathLike[str]
"""Where callers name a file or a folder."""
OnFile = Callable[[ExportFile, int], None]
"""Told of a file and how many of its bytes are there."""
PART, LOCK = ".part", ".jeep-export.lock"
"""Ending of what is half there, and the file that one download into a folder holds."""


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a folder's lock, which is not there afterwards; the folder is made if need be.

    Raises:
        OSError: another download holds it, or the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _busy(folder) from None
        # one that ended between the two lines above has removed the file that is locked here
        if not path.exists() or not os.path.samestat(path.stat(), os.fstat(file.fileno())):
            raise _busy(folder)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _busy(folder: Path) -> OSError:
    return OSError(
        f"another download into {folder} is running: wait until it has ended, or name another "
        "folder"
    )


def inside(folder: Path, name: str) -> Path:
    """``folder/name``, for a name that stays in the folder.

    Raises:
        OSError: it does not.
    """
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\\" in name:
        raise OSError(f"a file outside the folder is named: {name!r}")
    return folder.joinpath(*parts)


def remove_former(folder: Path, files: Sequence[ExportFile]) -> None:
    """Remove what an earlier export has written into a folder and the new one does not have.

    The earlier export's record says what that is; nothing else is touched.
    """
    try:
        former = [one["path"] for one in read_record(folder)["files"]]
    except DamagedExport:  # no export was here, or what it wrote is not known
        return
    for name in set(former) - {one.path for one in files}:
        inside(folder, name).unlink(missing_ok=True)


def begin(part: Path, head: bytes) -> None:
    """Make a part that begins with ``head``, unless there is one to go on with."""
    if part.is_file():
        with part.open("rb") as there:
            if there.read(len(head)) == head:
                return
    part.write_bytes(head)


def is_whole(path: Path, file: ExportFile, before: int = 0) -> bool:
    """Whether a file is there with its size and hash, after so many bytes ``before`` it."""
    if not path.is_file() or path.stat().st_size != before + file.bytes:
        return False
    with path.open("rb") as data:
        data.seek(before)
        return hashlib.file_digest(data, "sha256").hexdigest() == file.sha256


def untold(file: ExportFile, done: int) -> None:
    """For files that nobody asked to be told of."""
