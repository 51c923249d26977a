"""Manifests and tensors of a store, asked of its api."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from jeep_core.errors import Cancelled
from service.client import ApiError, BadAnswer, Client, DamagedDownload, Unreachable
from service.contracts.schemas import Manifest, TensorRef
from service.store import CorruptFile, CorruptTensor, NotFetched, UnknownVersion
from service.store.tensors import byte_count
from service.worker.fetching.link import BUSY, Link
from service.worker.fetching.waiting import unless
from service.worker.metrics import FETCHED_BYTES, FETCHES

T = TypeVar("T")
TRIES = 4
LONGEST_PAUSE_S = 10.0
"""Before a request that came too soon is sent again."""


class ApiSource:
    """A `Source` (`service.store.fetched.replica`): what is not here, from the api.

    Nothing is waited for once ``ended`` says so.
    """

    def __init__(
        self, client: Client, link: Link, ended: Callable[[], bool] = lambda: False
    ) -> None:
        self._client, self._link, self._ended = client, link, ended

    def line(self, version: str, count: int) -> list[Manifest]:
        """The manifests of a version and of up to ``count - 1`` of those below it.

        Raises:
            UnknownVersion: there is no such version.
            NotFetched: the api does not give it now.
            CorruptFile: it is damaged in the store.
        """
        return self._asked(version, version, lambda: self._client.version_line(version, count))

    def tensor(self, version: str, ref: TensorRef, path: Path, head: bytes) -> None:
        """Write the file of a version's tensor, which begins with ``head``.

        Raises:
            NotFetched: the api does not give it now, or it arrived damaged twice.
            CorruptTensor: it is damaged in the store.
            OSError: the file cannot be written.
        """
        size = byte_count(ref)
        self._asked(
            version,
            f"tensor {ref.name} of {version}",
            lambda: self._client.download_tensor(version, ref.sha256, size, path, head),
        )
        FETCHED_BYTES.inc(size)

    def _asked(self, version: str, what: str, call: Callable[[], T]) -> T:
        if (away_s := self._link.away_s) is not None:
            FETCHES.labels("failed").inc()
            raise NotFetched(
                f"{what} is not on this follower's disk, and the api at {self._link.url} has not "
                f"answered it for {away_s:.0f} s"
            )
        try:
            found = unless(self._ended, lambda: _patiently(call))
        except Cancelled:
            raise NotFetched(f"{what} is not fetched any more: this follower ends") from None
        except ApiError as error:
            FETCHES.labels("failed").inc()
            self._link.missed(what, error)
            if error.code == UnknownVersion.code:
                raise UnknownVersion(version) from None
            if error.code == CorruptFile.code:
                raise CorruptFile(f"{what}: {error.detail}") from None
            if error.code == CorruptTensor.code:
                raise CorruptTensor(f"{what}: {error.detail}") from None
            raise NotFetched(f"{what} cannot be had from {self._link.url}: {error}") from None
        except DamagedDownload as error:
            FETCHES.labels("damaged").inc()
            self._link.missed(what, error)
            raise NotFetched(f"{what} cannot be had from {self._link.url}: {error}") from None
        except (Unreachable, BadAnswer) as error:
            FETCHES.labels("failed").inc()
            self._link.is_silent(error)
            raise NotFetched(f"{what} cannot be had from {self._link.url}: {error}") from None
        FETCHES.labels("fetched").inc()
        self._link.got(what)
        return found


def _patiently(call: Callable[[], T]) -> T:
    """A call that is made again where the api says that it came too soon."""
    for _ in range(TRIES - 1):
        try:
            return call()
        except ApiError as error:
            if error.status != BUSY:
                raise
            time.sleep(min(error.retry_after or 1.0, LONGEST_PAUSE_S))
    return call()
