"""The store of another host, opened by a follower that is given the address of its api."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import ExitStack

from jeep_core.errors import Cancelled
from service.client import ApiError, Client, ClientError
from service.contracts.schemas.worker import Fetching
from service.settings import Settings, SettingsError
from service.store import WrongRelease
from service.store.fetched.cache import Cache
from service.store.fetched.replica import FetchedStore
from service.store.maintenance.room import MB
from service.worker.fetching.link import Link, is_refusal, refused
from service.worker.fetching.mirror import WAIT_S, Mirror, write
from service.worker.fetching.source import ApiSource
from service.worker.fetching.waiting import unless

log = logging.getLogger(__name__)
PATIENCE_S = 5.0
"""For an answer about head, beyond the time that the api is asked to wait."""
FETCHING_S = 90.0
"""For the next bytes of a file: the writer may have to make them again first."""


class Elsewhere:
    """A store that is read through its api.

    ``stack`` ends what this begins; ``ended`` is told why, where the api refuses the key later.
    ``stop``, once set, ends what `follow` does, and every wait for the api; those for a version
    only when nobody is ``owed`` an answer from it.

    Raises:
        SettingsError: the address or the key is none.
        NotAStore, StoreBusy: the folder is not this follower's own.
    """

    def __init__(
        self,
        settings: Settings,
        stack: ExitStack,
        ended: Callable[[str], None] = log.error,
        stop: threading.Event | None = None,
    ) -> None:
        self.link = Link(str(settings.store_url))
        self.stop = stop or threading.Event()
        self.owed: Callable[[], bool] = lambda: False
        self._ended = ended
        self._store: FetchedStore | None = None
        self._tag, self._waiting = "", False
        key = settings.store_key.get_secret_value().strip() if settings.store_key else None
        try:
            self._asking, self._fetching = (
                stack.enter_context(Client(self.link.url, timeout, key))
                for timeout in (WAIT_S + PATIENCE_S, FETCHING_S)
            )
        except ClientError as error:
            raise SettingsError(f"JEEP_STORE_URL, JEEP_STORE_KEY: {error}") from None
        self._cache = Cache(settings.store, settings.store_cache_mb * MB)
        stack.enter_context(self._cache.owned())

    def opened(self) -> FetchedStore | None:
        """The store; None while the api does not answer and nothing of it is here, or if stopped.

        Raises:
            SettingsError: the key is refused.
            WrongRelease: the api knows no followers without a disk.
            WrongFormat: the store is of another release.
        """
        try:
            found = unless(self.stop.is_set, lambda: self._asking.store_change("", 0))
        except Cancelled:
            return None
        except ClientError as error:
            if is_refusal(error):
                raise SettingsError(refused(error)) from None
            if isinstance(error, ApiError) and error.code == "not_found":
                raise WrongRelease(
                    f"the api at {self.link.url} gives no versions to followers: install the same "
                    "version on both, or give JEEP_STORE_URL without a path that is not the api's"
                ) from None
            self.link.is_silent(error)
            root, self._tag = self._cache.known(), ""
        else:
            assert found is not None
            self.link.answers()
            state, self._tag = found
            root = self._cache.enter(state.id)
            write(root, state)
        if root is None:
            if not self._waiting:
                log.warning("nothing of the store is here: waiting for its api to answer")
            self._waiting = True
            return None
        source = ApiSource(self._fetching, self.link, self._fetches_end)
        self._store = FetchedStore(root, self._cache, source)
        return self._store

    def _fetches_end(self) -> bool:
        return self.stop.is_set() and not self.owed()

    def in_use(self, versions: Callable[[], set[str]]) -> None:
        """Keep the files of these versions, beside head's."""
        if self._store is not None:
            self._store.in_use = versions

    def follow(self) -> None:
        """Thread body: keep head and the published model like the api's until ``stop`` is set."""
        assert self._store is not None
        root = self._store.root
        Mirror(self._asking, self.link, root, self._tag, self._ended, self.stop).run()

    def described(self) -> Fetching:
        """How this follower fares, for its heartbeat."""
        away_s = self.link.away_s
        return Fetching(
            away_s=None if away_s is None else round(away_s, 1),
            trouble=self.link.trouble,
            cached_bytes=0 if self._store is None else self._store.cached_bytes,
        )
