"""How a follower stands with the api that it fetches from."""

from __future__ import annotations

import logging
import threading
import time

from service.client import ApiError, ClientError

log = logging.getLogger(__name__)
REFUSALS = ("no_key", "invalid_key", "insufficient_scope")
"""Codes of answers that say that the key is no good."""
BUSY = 429
"""Status of an answer that says that a request came too soon."""

KEPT = 32
"""Things that were not given, at most."""


class Link:
    """The state of the connection to an api at ``url``; for any thread."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._missed: dict[str, str] = {}
        self._lock = threading.Lock()
        self._silence: str | None = None
        self._away_since: float | None = None

    @property
    def away_s(self) -> float | None:
        """For how many seconds the api has not answered; None: it answers."""
        since = self._away_since
        return None if since is None else time.monotonic() - since

    @property
    def trouble(self) -> str | None:
        """Why the api does not answer, else what it did not give when it was last asked."""
        with self._lock:
            return self._silence or next(reversed(self._missed.values()), None)

    def missed(self, what: str, error: ClientError) -> None:
        """Note that something was not given."""
        with self._lock:
            self._missed[what] = f"{what}: {error}"
            while len(self._missed) > KEPT:
                del self._missed[next(iter(self._missed))]

    def got(self, what: str) -> None:
        """Note that it was given."""
        with self._lock:
            self._missed.pop(what, None)

    def answers(self) -> None:
        """Note that it has answered."""
        if self._away_since is not None:
            log.info("the api at %s answers again", self.url)
        self._away_since = self._silence = None

    def is_silent(self, error: ClientError) -> None:
        """Note that it has not, or with an error of its own."""
        if self._away_since is None:
            log.error("the api cannot be read, answers go on from what is here: %s", error)
            self._away_since = time.monotonic()
        self._silence = str(error)


def is_refusal(error: BaseException) -> bool:
    """Whether an answer says that the follower's key gives no access."""
    return isinstance(error, ApiError) and error.code in REFUSALS


def refused(error: BaseException) -> str:
    """A sentence for that."""
    return (
        f"JEEP_STORE_KEY: the api does not let this follower read the store: {error}; make a key "
        "with jeep keys create NAME --scope follow"
    )
