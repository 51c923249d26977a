"""Uploaded suites: ``suites/<name>.data`` as uploaded, with the record ``suites/<name>.json``.

The JSON record is written last: a suite exists once its record does.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from jeep_core.storage.looking import listed
from service.contracts.schemas.evaluation import SuiteInfo
from service.store.errors import CorruptFile, StoreError
from service.store.files import TEMPORARY, create, difference, encode, fsync_folder, locked, read

log = logging.getLogger(__name__)
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}")


class UnknownSuite(StoreError):
    """No suite has this name."""

    code = "unknown_suite"

    def __init__(self, name: str) -> None:
        super().__init__(f"no suite is called {name!r}")


class SuiteTaken(StoreError):
    """The name already belongs to another suite."""

    code = "name_taken"

    def __init__(self, name: str) -> None:
        super().__init__(f"{name!r} is another suite")


def _what(info: SuiteInfo) -> tuple[str, str, str]:
    """The identity of a suite: the file, and how it is read and judged."""
    return info.sha256, info.format, info.style


class Upload:
    """A file that is being written under a temporary name."""

    def __init__(self, path: Path) -> None:
        self.path, self.bytes = path, 0
        self._file: BinaryIO = path.open("xb")
        self._hash = hashlib.sha256()

    def write(self, chunk: bytes) -> None:
        """Append a chunk."""
        self._file.write(chunk)
        self._hash.update(chunk)
        self.bytes += len(chunk)

    def close(self) -> None:
        """Make the written data durable."""
        if not self._file.closed:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()

    @property
    def sha256(self) -> str:
        """Hash of the written data."""
        return self._hash.hexdigest()


class Suites:
    """The uploaded suites of a store (``store.suites``)."""

    def __init__(self, root: Path) -> None:
        self._folder = root / "suites"
        self._lock = root / "locks" / "suites"

    @contextmanager
    def upload(self) -> Iterator[Upload]:
        """Yield a file to write to; it is removed at the end unless it was added."""
        path = self._folder / f".upload.{uuid4().hex}{TEMPORARY}"
        upload = Upload(path)
        try:
            yield upload
        finally:
            upload.close()
            path.unlink(missing_ok=True)

    def add(self, upload: Upload, info: SuiteInfo) -> tuple[SuiteInfo, bool]:
        """Give a checked upload its name; False if the same suite had it already.

        A file of that suite that is damaged is replaced.

        Raises:
            SuiteTaken: another suite has the name.
        """
        with locked(self._lock):
            known = self._info(info.name)
            if known is not None:
                if _what(known) != _what(info):
                    raise SuiteTaken(info.name)
                if difference(self._path(info.name, "data"), known.sha256):
                    self._put(upload, info.name)
                return known, False
            self._put(upload, info.name)
            create(self._path(info.name, "json"), encode(info))
            return info, True

    def _put(self, upload: Upload, name: str) -> None:
        upload.close()
        upload.path.rename(self._path(name, "data"))
        fsync_folder(self._folder)

    def get(self, name: str) -> SuiteInfo:
        """The record of a suite.

        Raises:
            UnknownSuite
        """
        info = self._info(name)
        if info is None:
            raise UnknownSuite(name)
        return info

    def all(self) -> list[SuiteInfo]:
        """The records of all suites, by name; those that cannot be read are logged and left out."""
        found = []
        for path in listed(self._folder, "*.json"):
            try:
                found.append(self._info(path.stem))
            except CorruptFile as error:
                log.error("%s", error)
        return [info for info in found if info is not None]

    def path(self, name: str) -> Path:
        """The path of a suite's file, verified by its hash.

        Raises:
            UnknownSuite
            CorruptFile: the file is damaged or missing.
        """
        path = self._path(name, "data")
        what = difference(path, self.get(name).sha256)
        if what:
            raise CorruptFile(f"{path} {what}: upload the suite again")
        return path

    def _info(self, name: str) -> SuiteInfo | None:
        return read(self._path(name, "json"), SuiteInfo)

    def _path(self, name: str, suffix: str) -> Path:
        if not _NAME.fullmatch(name):
            raise UnknownSuite(name)
        return self._folder / f"{name}.{suffix}"
