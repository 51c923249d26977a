"""Actors as the driver knows them, and the places that they take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jeep_core.executors.crew import STARTS

PAUSE_S, LONGEST_PAUSE_S = 1.0, 10.0
"""Before an actor is started after one that died while it loaded; twice as long each time."""
LEFT_OUT_S = 300.0
"""Before another one is tried where actors cannot work, while others can."""


@dataclass
class Place:
    """One of so many actors as there shall be.

    ``deaths``: how many in a row were lost here before they were ready; ``since`` when the last one
    was; ``refused`` is why it said that it cannot work.
    """

    deaths: int = 0
    since: float = 0.0
    refused: BaseException | None = None

    def failed(self, now: float, refused: BaseException | None = None) -> None:
        """An actor died while it loaded, or cannot work at all."""
        self.deaths = self.deaths + 1 if refused is None else max(STARTS, self.deaths + 1)
        self.since, self.refused = now, refused

    def is_ready(self) -> None:
        """An actor is: those before it do not count."""
        self.deaths, self.refused = 0, None

    @property
    def is_left_out(self) -> bool:
        """Whether so many have failed here that others are to do the work."""
        return self.deaths >= STARTS

    def may_start(self, now: float, others_work: bool) -> bool:
        """Whether an actor may be started here now."""
        if not self.deaths:
            return True
        if self.refused is not None or (self.is_left_out and others_work):
            return now - self.since >= LEFT_OUT_S
        # the exponent has a limit, as a cluster may lack something for days
        pause = min(LONGEST_PAUSE_S, PAUSE_S * 2.0 ** min(self.deaths - 1, 10))
        return now - self.since >= pause


@dataclass
class Seat:
    """An actor and what it was told.

    ``beside``: it computes where the caller does.  ``task`` is the unit's number that it has,
    ``answer`` what it will give; ``begun`` the beginning that it was sent; ``version`` the key of
    the version that it has, or is to make for that; ``stale_since`` when its unit, or its
    beginning, was given up.
    """

    actor: Any
    ready: Any
    place: Place
    is_ready: bool = False
    beside: bool = False
    begun: bytes | None = None
    beginning: Any = None
    version: str | None = None
    task: int | None = None
    answer: Any = None
    asked: Any = None
    stale_since: float | None = None
