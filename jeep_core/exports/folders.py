"""Folders that are whole or absent, and the record of what is in them; needs no torch."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from jeep_core.errors import JeepError
from jeep_core.storage.records import sealed, unsealed

RECORD = "export.json"
"""The name of a folder's own record: what it is, and the hashes of its files."""
PARTIAL = ".partial"
_CHUNK = 2**20


@dataclass(frozen=True)
class FileHash:
    """A file of a folder: its path there, with ``/`` between parts, its bytes and their SHA-256."""

    path: str
    bytes: int
    sha256: str


class DamagedExport(JeepError):
    """A folder whose files are not those that were written; the message names one."""

    code = "corrupt_file"


class HashingFile:
    """A new file that keeps the SHA-256 of what is written to it, and is flushed to disk."""

    def __init__(self, path: Path, name: str) -> None:
        self._name, self._bytes, self._digest = name, 0, hashlib.sha256()
        self._file = path.open("xb")

    def __enter__(self) -> HashingFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._file:
            if kind is None:
                self._file.flush()
                os.fsync(self._file.fileno())

    def write(self, data: bytes) -> None:
        """Append bytes."""
        self._file.write(data)
        self._digest.update(data)
        self._bytes += len(data)

    def hash(self) -> FileHash:
        """The hash of all that was written."""
        return FileHash(self._name, self._bytes, self._digest.hexdigest())


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A new folder to write into, which becomes ``target`` at the end; nothing after an error.

    Raises:
        FileExistsError: ``target`` is there already.
    """
    if target.exists():
        raise FileExistsError(f"{target} is there already: remove it or name another folder")
    partial = target.with_name(target.name + PARTIAL)
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
    partial.mkdir(parents=True)
    try:
        yield partial
        _flush(partial)
        partial.rename(target)
        _flush(target.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def hash_of(folder: Path, path: str) -> FileHash:
    """The hash of a file in a folder, read a megabyte at a time."""
    digest, size = hashlib.sha256(), 0
    with (folder / path).open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return FileHash(path, size, digest.hexdigest())


def write_record(
    folder: Path, record: dict[str, Any], known: tuple[FileHash, ...] = ()
) -> tuple[FileHash, ...]:
    """Write ``record`` with the hashes of all files, and flush them; the last file of a folder.

    ``known`` hashes, of files that `HashingFile` wrote, are not taken again.
    """
    found = {one.path: one for one in known}
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    for path in paths:
        name = path.relative_to(folder).as_posix()
        if name not in found:
            found[name] = hash_of(folder, name)
            _flush(path)
    files = tuple(found[name] for name in sorted(found))
    whole = {**record, "files": [asdict(one) for one in files]}
    text = json.dumps(whole, ensure_ascii=False, separators=(",", ":"))
    with HashingFile(folder / RECORD, RECORD) as out:
        out.write(sealed(text.encode()))
    return files


def read_record(folder: Path) -> dict[str, Any]:
    """The record of a folder.

    Raises:
        DamagedExport: it is not there, or not as it was written.
    """
    try:
        record: dict[str, Any] = json.loads(unsealed((folder / RECORD).read_bytes()))
    except FileNotFoundError:
        raise DamagedExport(
            f"{folder} has no {RECORD}: it is no export, or not a whole one"
        ) from None
    except ValueError as error:
        raise DamagedExport(f"{folder / RECORD} is damaged ({error}): export again") from None
    return record


def verify(folder: Path) -> tuple[FileHash, ...]:
    """The files of a folder, after comparing each with its hash.

    Raises:
        DamagedExport: one is missing or differs.
    """
    files = tuple(FileHash(**one) for one in read_record(folder)["files"])
    for one in files:
        try:
            found = hash_of(folder, one.path)
        except FileNotFoundError:
            raise DamagedExport(f"{folder / one.path} is missing: export again") from None
        if found != one:
            raise DamagedExport(
                f"{folder / one.path} does not have the hash it was written with: export again"
            )
    return files


def _flush(path: Path) -> None:
    """Flush a file, or the names in a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
