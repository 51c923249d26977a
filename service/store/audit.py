"""The audit log: ``audit.jsonl``, one line per call, appended and fsynced, never rewritten."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from jeep_core.storage.looking import present
from jeep_core.storage.records import sealed, unsealed
from service.contracts.schemas.access import AuditEntry
from service.store.files import fsync_folder, locked, private

_BLOCK = 64 * 1024

log = logging.getLogger(__name__)


class AuditLog:
    """The audit log of a store (``store.audit``); any process may append."""

    def __init__(self, root: Path) -> None:
        self._root, self._path = root, root / "audit.jsonl"

    def append(self, entry: AuditEntry) -> None:
        """Append a line durably.  An earlier line cut off by a crash is ended first."""
        line = sealed(entry.model_dump_json(exclude_none=True).encode()) + b"\n"
        with locked(self._root / "locks" / "audit"):
            fresh = not present(self._path)
            with open(self._path, "a+b", buffering=0, opener=private) as file:
                if not _ends_whole(file):
                    line = b"\n" + line
                file.write(line)
                os.fsync(file.fileno())
            if fresh:
                fsync_folder(self._root)

    def entries(self, before: int | None = None) -> Iterator[tuple[int, AuditEntry]]:
        """Lines, newest first, each with its offset; ``before``: only those before an offset.

        Lines that cannot be read are logged and left out.
        """
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return
        with file:
            for place, line in _lines_backwards(file, before):
                try:
                    yield place, AuditEntry.model_validate_json(unsealed(line))
                except ValueError:
                    log.error("%s has no entry at byte %s", self._path, place)


def _ends_whole(file: BinaryIO) -> bool:
    if file.seek(0, os.SEEK_END) == 0:
        return True
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def _lines_backwards(file: BinaryIO, before: int | None) -> Iterator[tuple[int, bytes]]:
    """``(offset, line)`` of the lines that begin before an offset, last first; no empty ones."""
    end = file.seek(0, os.SEEK_END)
    place = end if before is None else min(before, end)
    rest = b""
    while place > 0:
        start = max(0, place - _BLOCK)
        file.seek(start)
        rest = file.read(place - start) + rest
        place = start
        first = 0 if start == 0 else rest.find(b"\n") + 1
        if start and not first:
            continue  # a line longer than a block
        lines = rest[first:].split(b"\n")
        at = start + len(rest)
        for line in reversed(lines):
            at -= len(line)
            if line:
                yield at, line
            at -= 1
        rest = rest[:first]
