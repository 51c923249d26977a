"""JSON lines that a killed process leaves whole but for the last one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from service.store.files import replace


class Records:
    """One JSON object per line."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Iterator[dict[str, Any]]:
        """What is there; a last line without its end is cut off."""
        if not self._path.exists():
            return
        with self._path.open("r+b") as file:
            whole = 0
            for line in file:
                if not line.endswith(b"\n"):
                    file.truncate(whole)
                    return
                whole += len(line)
                yield json.loads(line)

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add lines durably."""
        with self._path.open("ab") as file:
            file.write(_lines(rows))
            file.flush()
            os.fsync(file.fileno())

    def replace(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write the whole file: readers see the old lines or the new ones."""
        replace(self._path, _lines(rows))


def _lines(rows: Iterable[Mapping[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
