"""The second moments of the process: one text and one cache shared by all users."""

from __future__ import annotations

import threading

from jeep_core.models.loading import LoadedModel
from jeep_core.moments.cache import Moments, quick_products
from jeep_core.moments.of_texts import corpus_texts
from jeep_core.moments.source import samples_of
from service.settings import Settings
from service.store import Store


class SharedMoments:
    """Gives every user its own `Moments` over the shared text and cache.

    ``JEEP_FACTOR_MEMORY_MB`` bounds the memory of edits and trials together, and a factor computed
    by one is used by the others.  Safe to use from threads.
    """

    def __init__(self, base: LoadedModel, store: Store, settings: Settings) -> None:
        self._base, self._store, self._settings = base, store, settings
        self._lock = threading.Lock()
        self._first: Moments | None = None

    def for_user(self) -> Moments:
        """Moments for one user, which may be used beside those of others.

        Raises:
            JeepError: the text cannot be read.
        """
        with self._lock:
            if self._first is None:
                self._first = self._made(needed=True)
            return self._first.another()

    def for_none(self) -> Moments:
        """Moments for an editor that needs none; nothing is read."""
        return self._made(needed=False)

    def _made(self, needed: bool) -> Moments:
        settings = self._settings
        base = self._base
        read = needed and settings.moments is None
        usual = samples_of(base.name, settings.corpus, base.mlp_size)
        return Moments(
            base,
            corpus_texts(base.name, settings.corpus) if read else [],
            settings.moment_samples or usual,
            folder=self._store.base.moments_folder,
            imported=settings.moments,
            factor_bytes=settings.factor_memory_mb * 2**20,
            bfloat16=quick_products(base, settings.corpus),
        )
