"""Room for another job: the size of the store against its limit, and the free disk space."""

from __future__ import annotations

import os
import shutil
import threading
import time
from pathlib import Path

from jeep_core.storage.looking import files_below
from service.store.errors import DiskFull, StoreFull

MB = 2**20
FRESH_S = 10.0
"""How long a measured size is good for."""


def size_of(entry: os.DirEntry[str]) -> int:
    """Bytes of a file, 0 if it is gone."""
    try:
        return entry.stat(follow_symlinks=False).st_size
    except FileNotFoundError:
        return 0


class Room:
    """Decides whether a store may grow.  Measuring reads the size of every file, so it is cached.

    Safe to use from threads.
    """

    def __init__(self, root: Path, max_mb: int | None, min_free_mb: int) -> None:
        self._root, self._max_mb, self._min_free_mb = root, max_mb, min_free_mb
        self._measured: tuple[float, int] | None = None
        self._lock = threading.Lock()

    def used(self) -> int:
        """Bytes of all files of the store."""
        with self._lock:
            if self._measured is None or time.monotonic() - self._measured[0] >= FRESH_S:
                used = sum(map(size_of, files_below(self._root)))
                self._measured = (time.monotonic(), used)
            return self._measured[1]

    def check(self, needed: int = 0) -> None:
        """Raise :class:`StoreFull` or :class:`DiskFull` if no further job may start.

        ``needed``: bytes that it is known to write.
        """
        free = shutil.disk_usage(self._root).free
        more = f", and {needed // MB} MB are to be written" if needed >= MB else ""
        if free - needed < self._min_free_mb * MB:
            raise DiskFull(
                f"{free // MB} MB are free on the store's disk, {self._min_free_mb} must be "
                f"(JEEP_MIN_FREE_MB){more}"
            )
        if self._max_mb is not None and (used := self.used()) + needed >= self._max_mb * MB:
            raise StoreFull(
                f"the store has {used // MB} MB, its limit is {self._max_mb} (JEEP_MAX_STORE_MB)"
                f"{more}: lower JEEP_KEEP_VERSIONS or JEEP_KEEP_EXPORTS, or raise the limit"
            )
