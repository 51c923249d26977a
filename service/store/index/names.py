"""The names of versions in their folder, which is listed no more often than it must be."""

from __future__ import annotations

import time
from pathlib import Path

from service.store.files import STEP_NS
from service.store.versions import MANY, SET_ASIDE, Versions

LIST_EVERY_S = 600.0
"""After this time the folder is listed again, whatever has changed."""


class VersionNames:
    """The folder of versions as it was last seen.  For one thread at a time.

    Versions get their numbers from a counter.  One that was written since the folder was listed is
    therefore among those that were given out since, or that were not there then.  Versions go only
    where a repair sets them aside, which changes another folder, too.

    Attributes:
        generation: of the index that what is known was compared with (`Database.generation`).
    """

    def __init__(self, root: Path, versions: Versions) -> None:
        self._versions, self._aside = versions, root / SET_ASIDE
        self.generation = -1
        # the newest number that was given out, and those up to it that no version has
        self._newest = 0
        self._absent: list[int] = []
        self._changed: tuple[int, int] | None = None
        self._listed_at = 0.0

    def every(self, changed: int) -> set[int]:
        """N of every version ``vN``; ``changed``: when the folder was, before this call."""
        aside, self._listed_at = _changed(self._aside), time.monotonic()
        # while a repair sets versions aside, another one may follow that nothing would tell of
        settled = time.time_ns() - aside > STEP_NS
        self._changed = (changed, aside) if settled else None
        there = self._versions.numbers()
        self._newest = max(there, default=0)
        # also the base, of a store that was opened before it was written
        self._absent = [number for number in range(self._newest + 1) if number not in there]
        return there

    def new(self, changed: int, generation: int) -> set[int] | None:
        """N of the versions that were written since the last call; ``changed`` as in `every`.

        None: the folder has changed in another way, or might have, so that it must be listed.
        """
        before = self._changed
        if before is None or generation != self.generation:
            return None
        if time.monotonic() - self._listed_at > LIST_EVERY_S or before[1] != _changed(self._aside):
            return None
        given = self._versions.given_since(self._newest)
        if given is None:
            return None
        asked = [*self._absent, *given]
        found = {number for number in asked if self._versions.is_there(number)}
        if len(asked) - len(found) > MANY or (not found and changed != before[0]):
            return None
        self._absent = [number for number in asked if number not in found]
        self._newest = max((self._newest, *given))
        self._changed = changed, before[1]
        return found


def _changed(folder: Path) -> int:
    """When the names in a folder have changed, 0 without one."""
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return 0
