"""Sums of passes that are not done, kept on disk: a pass that was killed goes on from them."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from pathlib import Path

from jeep_core.errors import JeepError
from jeep_core.moments.sums import MomentSums
from jeep_core.storage.looking import listed, present

log = logging.getLogger(__name__)

SAVE_EVERY_S = 30.0
SAVING_SHARE = 0.05
"""Sums are saved so seldom that saving takes at most this share of the time."""
GIVEN_UP_S = 7 * 86400.0
"""Age of sums that no pass has gone on with since: their text or their layers are not asked for any
more."""


class Unfinished:
    """The sums of one kind of pass in a folder, under its ``name``; without a folder none are kept.

    Sums are saved now and then.
    """

    def __init__(self, folder: Path | None, name: str) -> None:
        self._folder, self._path = folder, folder and folder / f"unfinished-{name}.safetensors"
        self._next = time.monotonic() + SAVE_EVERY_S

    def start(self, fresh: MomentSums) -> MomentSums:
        """Those that a killed pass has left, or ``fresh`` ones where there are none, or damaged.

        Raises:
            OSError, SafetensorError: they cannot be read now.
        """
        if self._path is None or not present(self._path):
            return fresh
        try:
            return MomentSums.load(self._path)
        except JeepError as error:
            log.warning("%s; the pass begins again", error)
            return fresh  # which are saved in its place

    def offer(self, sums: MomentSums) -> None:
        """Save ``sums`` if it is time."""
        began = time.monotonic()
        if self._path and began >= self._next:
            sums.save(self._path)
            ended = time.monotonic()
            self._next = ended + max(SAVE_EVERY_S, (ended - began) / SAVING_SHARE)

    def done(self) -> None:
        """Remove those of this pass, and those of others that were given up (`GIVEN_UP_S`)."""
        if self._folder is None or self._path is None:
            return
        self._path.unlink(missing_ok=True)
        with suppress(OSError):  # what this pass has found is worth more than their room
            for path in listed(self._folder, "unfinished-*.safetensors"):
                if time.time() - path.stat().st_mtime > GIVEN_UP_S:
                    path.unlink(missing_ok=True)
