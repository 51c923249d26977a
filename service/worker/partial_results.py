"""JSON lines with a hash each; a killed process can damage only the last one."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from jeep_core.spec.finite import json_text
from jeep_core.storage.looking import is_plain_file, present
from jeep_core.storage.records import sealed, unsealed
from service.store.files import replace

log = logging.getLogger(__name__)


class Records:
    """One JSON object per line."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Iterator[dict[str, Any]]:
        """Read up to the first incomplete or damaged line; the rest is cut off."""
        if not present(self._path):
            return
        with self._path.open("r+b") as file:
            whole = 0
            for line in file:
                try:
                    if not line.endswith(b"\n"):
                        raise ValueError("its last line has no end")
                    row = json.loads(unsealed(line[:-1]))
                except ValueError as error:
                    log.error("%s is cut off after %s bytes: %s", self._path, whole, error)
                    file.truncate(whole)
                    return
                whole += len(line)
                yield row

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add lines durably."""
        with self._path.open("ab") as file:
            file.writelines(sealed(_line(row)) + b"\n" for row in rows)
            file.flush()
            os.fsync(file.fileno())


def of_layout(folder: Path, layout: int) -> None:
    """See to it that the partial results in a job's folder have this layout.

    Those of another one are removed, to be computed again: a job that goes on after an upgrade
    shall not mix rows of two releases.
    """
    mark = folder / "layout"
    if present(mark) and mark.read_text("utf-8", errors="replace") == str(layout):
        return
    for path in folder.iterdir():
        if is_plain_file(path):
            path.unlink()
    replace(mark, str(layout).encode())


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Replace a file of JSON lines atomically: readers see the old ones or the new ones."""
    replace(path, b"".join(_line(row) + b"\n" for row in rows))


def _line(row: Mapping[str, Any]) -> bytes:
    return json_text(row, "a line of partial results", ensure_ascii=False).encode()
