"""The lines of the reflog, of which no more is read than is new."""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path

from jeep_core.storage.records import unsealed
from service.store.errors import CorruptFile
from service.store.files import NOT_A_FILE, STEP_NS, Stamp, append_line, file_stamp, replace

AT_ONCE = 1 << 16
"""Bytes that are read from the end while the last line is looked for."""

_JOB = re.compile(rb'"job_id":"([^"\\\\]+)"')


class Moves:
    """The reflog as lines of bytes.  Safe to use from threads.

    Only one process writes it at a time, under the lock of head.  As long as the file is as this
    object left it, what was read of it before is not read again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.RLock()
        # as far as it was read: the file's stamp then, the end of it, the first line of each job
        self._stamp: Stamp = None
        self._end = 0
        self._by_job: dict[bytes, int] = {}

    def text(self) -> bytes:
        """All of it; empty without a file.

        Raises:
            CorruptFile: it is no file.
            OSError: it cannot be read now.
        """
        return self._from(0)

    def last(self) -> bytes:
        """The last whole line, without its end; empty if there is none.

        Raises:
            CorruptFile: as `text`.
        """
        whole = self._tail(2).rpartition(b"\n")[0]
        return whole.rpartition(b"\n")[2]

    def append(self, line: bytes) -> None:
        """Add a line durably.

        Raises:
            OSError: there is no room; a part of the line may be there.
        """
        with self._lock:
            known = self._stamp is not None and self._stamp == file_stamp(self._path)
            append_line(self._path, line)
            if known:
                self._note(line + b"\n")
                self._stamp = file_stamp(self._path)

    def cut_to_lines(self) -> None:
        """Remove what a crash has left of a line."""
        if not self._tail(1).endswith(b"\n") and (text := self.text()):
            replace(self._path, text[: text.rfind(b"\n") + 1])

    def of_job(self, job_id: str) -> bytes | None:
        """The first line that names a job as the one that moved head, None if there is none.

        Raises:
            ValueError: a line is damaged, so that it could be that of any job.
            CorruptFile: as `text`.
        """
        with self._lock:
            stamp = file_stamp(self._path)
            if stamp is None or stamp != self._stamp:
                self._stamp, self._end, self._by_job = None, 0, {}
                text = self.text()
                self._note(text[: text.rfind(b"\n") + 1])
                settled = stamp is None or time.time_ns() - stamp[2] > STEP_NS
                self._stamp = stamp if settled else None
            start = self._by_job.get(job_id.encode())
            return None if start is None else self._from(start).partition(b"\n")[0]

    def _note(self, lines: bytes) -> None:
        """Remember which jobs moved head in lines that follow those that were read before."""
        for line in lines.splitlines(keepends=True):
            found = _JOB.search(unsealed(line[:-1]))
            if found is not None:
                self._by_job.setdefault(found.group(1), self._end)
            self._end += len(line)

    def _tail(self, lines: int) -> bytes:
        """The end of it, with so many ends of lines in it, or all."""
        size, count = AT_ONCE, self._size()
        while True:
            text = self._from(max(0, count - size))
            if size >= count or text.count(b"\n") >= lines:
                return text
            size *= 4

    def _from(self, start: int) -> bytes:
        try:
            with self._path.open("rb") as file:
                file.seek(start)
                return file.read()
        except FileNotFoundError:
            return b""
        except NOT_A_FILE as error:
            raise CorruptFile(f"{self._path} cannot be read: {error.strerror}") from None

    def _size(self) -> int:
        stamp = file_stamp(self._path)
        return 0 if stamp is None else stamp[1]
