"""The order of head's moves, for requests that ask for a version or a later one.

A version is *at least* another one if head was at it then or later.  Versions form a tree, and
after a rollback head is an older version: by the log it is the later one.
"""

from __future__ import annotations

import threading
from pathlib import Path

from service.store.head import HeadPointer, moved_to

Span = tuple[int, int]
"""The first and the last move that made a version head."""


class HeadLog:
    """Where each version stands in the log (``store.head_log``), read on from where it ended.

    Damaged lines are passed over.  Safe to use from threads.
    """

    def __init__(self, root: Path, head: HeadPointer) -> None:
        self._path, self._head = root / "reflog.jsonl", head
        self._lock = threading.Lock()
        self._forget()

    def _forget(self) -> None:
        self._end, self._moves, self._last_line = 0, 0, b""
        self._spans: dict[str, Span] = {}

    def is_at_least(self, version: str, minimum: str) -> bool:
        """Whether head was at ``version`` when, or after, it first was at ``minimum``.

        Raises:
            UnknownVersion, CorruptFile: as `HeadPointer.read`.
        """
        with self._lock:
            self._read_on()
            head = self._head.read().version  # its line may not be written yet
            spans = {name: self._spans.get(name) for name in (version, minimum)}
            if head in spans:
                first = spans[head]
                spans[head] = (self._moves if first is None else first[0], self._moves)
        of_version, of_minimum = spans[version], spans[minimum]
        return of_version is not None and of_minimum is not None and of_version[1] >= of_minimum[0]

    def _read_on(self) -> None:
        try:
            with self._path.open("rb") as file:
                start = self._end - len(self._last_line)
                file.seek(start)
                if file.read(len(self._last_line)) != self._last_line:  # it was mended
                    self._forget()
                    file.seek(0)
                text = file.read()
        except FileNotFoundError:
            return self._forget()
        whole = text[: text.rfind(b"\n") + 1]
        for line in whole.splitlines(keepends=True):
            to = moved_to(line.rstrip(b"\n"))
            if to is not None:
                first, _ = self._spans.get(to, (self._moves, 0))
                self._spans[to] = first, self._moves
            self._moves += 1
            self._last_line = line
        self._end += len(whole)
        return None
