"""How a follower learns of a new head: it looks at the file, which is the commit itself."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from jeep_core.errors import is_out_of_memory
from service.store import Store, StoreError
from service.store.files import Stamp, file_stamp
from service.worker.versions.views import VersionViews

log = logging.getLogger(__name__)
LOOK_S = 0.2
"""How often head and the published model are looked at: two calls of ``stat``."""
AGAIN = 5
"""Looks after which a head that could not be loaded is tried again."""
RESTS = 9
"""How many times as long as such a try it is left alone at least: a try may read gigabytes."""


class FollowedHead:
    """Keeps head in memory; ``run`` is a thread's body and ends at ``stop``.

    ``version`` is the one that head was last followed to.  ``changed`` is called when the writer
    has published its model again, and may raise.
    """

    def __init__(
        self, store: Store, views: VersionViews, changed: Callable[[], None] = lambda: None
    ) -> None:
        self._store, self._views, self._changed = store, views, changed
        self._head: Stamp = None
        self._info: Stamp = file_stamp(store.base.published("info.json"))
        self.version: str | None = None
        self.stop = threading.Event()

    @property
    def served(self) -> bool:
        """Whether head can be answered from: it is followed, and could be loaded when it was last
        wanted, which may have been again if other versions had taken its place in memory.
        """
        return self.version is not None and self.version not in self._views.damaged()

    def run(self) -> None:
        """Look until stopped.

        Raises:
            StoreError: the writer is of another release or has another model now.
        """
        looks, rested = 0, 0.0
        while not self.stop.wait(LOOK_S):
            looks, began = looks + 1, time.monotonic()
            again = looks % AGAIN == 0 and began >= rested
            self.look(again=again)
            if again and self.version is None:
                ended = time.monotonic()
                rested = ended + RESTS * (ended - began)
            published = file_stamp(self._store.base.published("info.json"))
            if published is not None and published != self._info:
                self._changed()
                self._info = published

    def look(self, *, again: bool = True) -> None:
        """Load head if it has moved; ``again``: also if it could not be loaded before.

        A lack of memory is no reason to end: others answer until there is enough.
        """
        stamp = file_stamp(self._store.root / "head.json")
        if stamp is not None and stamp == self._head and not (again and not self.served):
            return
        try:
            version = self._store.head.read().version
            self._views.get(version)
        except Exception as error:
            if not (isinstance(error, (StoreError, OSError)) or is_out_of_memory(error)):
                raise
            if self.version is not None or stamp != self._head:
                log.error("head cannot be followed now: %s", error)
            self.version = None
        else:
            if version != self.version:
                log.info("head is %s", version)
            self.version = version
        self._head = stamp
