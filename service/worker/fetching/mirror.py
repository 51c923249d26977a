"""Head and the published model as the api shows them, in the files that a follower looks at."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from jeep_core.errors import Cancelled
from jeep_core.storage.looking import present
from service.client import ApiError, Client, ClientError
from service.contracts.schemas.worker import StoreState
from service.store import WrongFormat
from service.store.files import encode, replace
from service.store.store import FORMAT, StoreFormat, StoreIdentity, StoreModel
from service.worker.fetching.link import BUSY, Link, is_refusal, refused
from service.worker.fetching.waiting import unless

log = logging.getLogger(__name__)
WAIT_S = 2.0
"""How long the api is asked to wait for something new.

So long a new head is not asked for again; a follower that is stopped does not wait for it.
"""
PAUSE_S = 0.5
"""Between two tries while it does not answer."""
HEAD = "head"
"""What is missed while the key's requests are too many."""


class Mirror:
    """Keeps the files of a copy like the api's; ``run`` is a thread's body and ends at ``stop``.

    ``ended`` is told why, where the follower's key is refused.
    """

    def __init__(
        self,
        client: Client,
        link: Link,
        root: Path,
        tag: str,
        ended: Callable[[str], None],
        stop: threading.Event,
    ) -> None:
        self._client, self._link, self._root, self._tag = client, link, root, tag
        self._ended, self.stop = ended, stop
        self._state: StoreState | None = None

    def run(self) -> None:
        """Follow until stopped."""
        while not self.stop.is_set():
            if not self.look():
                self.stop.wait(PAUSE_S)

    def look(self) -> bool:
        """Wait for a change and write it; False if the api has not answered."""
        try:
            found = unless(self.stop.is_set, lambda: self._client.store_change(self._tag, WAIT_S))
        except Cancelled:
            return False
        except ClientError as error:
            if is_refusal(error):
                self._ended(refused(error))
                self.stop.set()
                return False
            if isinstance(error, ApiError) and error.status == BUSY:
                self._link.missed(HEAD, error)  # it is not away: what is fetched comes in its turn
            else:
                self._link.is_silent(error)
            if isinstance(error, ApiError) and error.retry_after:
                self.stop.wait(min(error.retry_after, WAIT_S))
            return False
        self._link.answers()
        self._link.got(HEAD)
        if found is not None:
            self._state, self._tag = found
        try:
            if self._state is not None:  # also what is as it was: a file here may be damaged
                write(self._root, self._state)
        except WrongFormat as error:
            self._ended(str(error))
            self.stop.set()
        except OSError as error:
            log.error("head cannot be written down: %s", error)
            return False
        return True


def write(root: Path, state: StoreState) -> None:
    """Write a state into the copy of its store, each file only if it is another one.

    Of another store than the one that is there only its id is written, and what has been published,
    by which a follower sees that it is to be started again.

    Raises:
        WrongFormat: the store is of another release.
        OSError: a file cannot be written.
    """
    if state.format != FORMAT:
        raise WrongFormat(f"the store has format {state.format}, this program reads {FORMAT}")
    _put(root / "format.json", encode(StoreFormat(format=FORMAT)))
    if state.id == root.name:
        if state.model_hash is not None:
            _put(root / "model.json", encode(StoreModel(model_hash=state.model_hash)))
        if state.head is not None:
            _put(root / "head.json", encode(state.head))
    _put(root / "id.json", encode(StoreIdentity(id=state.id)))
    if state.info is not None:
        _put(root / "model" / "info.json", encode(state.info))


def _put(path: Path, data: bytes) -> None:
    if not present(path) or path.read_bytes() != data:
        replace(path, data)
