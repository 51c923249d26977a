"""The lease: which worker may write, and a fence that identifies outdated workers."""

from __future__ import annotations

import logging
import socket
import threading
import time

from redis import Redis
from redis.exceptions import RedisError

from service.contracts import wire
from service.queue import scripts
from service.queue.errors import LeaseHeld, LeaseLost, translating
from service.settings import Settings

_RETRY_S = 0.25
_log = logging.getLogger(__name__)


@translating
class Lease:
    """Held by one worker at a time and renewed by a daemon thread; ``lost`` is set when gone.

    The owner is this host's store, whose worker lock must be held: so a lease left by a killed
    worker of the same store is taken over immediately, one of another host is waited for.
    A lease that expired while Redis was unreachable is renewed if no other worker took it.
    """

    def __init__(self, client: Redis, keys: wire.Keys, settings: Settings) -> None:
        self._keys = keys
        self._owner = f"{socket.gethostname()}:{settings.store.absolute()}"
        self._lease_ms = settings.lease_ms
        self._renew_s = settings.lease_renew_s
        self._acquire = client.register_script(scripts.ACQUIRE)
        self._renew = client.register_script(scripts.RENEW)
        self._release = client.register_script(scripts.RELEASE)
        self._fence: int | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.lost = threading.Event()

    @property
    def fence(self) -> int:
        """The number of this lease, greater than all before; :class:`LeaseLost` without one."""
        if self._fence is None:
            raise LeaseLost("no lease was acquired")
        return self._fence

    def acquire(
        self, store_fence: int, *, wait_s: float | None = None, stop: threading.Event | None = None
    ) -> int:
        """Wait for the lease and return its fence, greater than ``store_fence``.

        Raises :class:`LeaseHeld` after ``wait_s`` (None: waits forever) or when ``stop`` is set.
        """
        give_up = time.monotonic() + wait_s if wait_s is not None else None
        args: list[str | int] = [self._owner, store_fence, self._lease_ms]
        stop = stop or threading.Event()
        keys, told = [self._keys.lease, self._keys.fence], False
        while not (fence := int(self._acquire(keys=keys, args=args))):
            if give_up is not None and time.monotonic() >= give_up:
                raise LeaseHeld("another worker holds the lease")
            if not told:
                _log.warning("another worker holds the lease of this store; waiting for its end")
                told = True
            if stop.wait(_RETRY_S):
                raise LeaseHeld("stopped while another worker holds the lease")
        self._fence = fence
        self.lost.clear()
        self._stop.clear()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()
        return fence

    def release(self) -> None:
        """Stop renewing and release the lease; harmless when none is held."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=2)
            self._thread = None
        if self._fence is not None and not self.lost.is_set():
            try:
                self._release(keys=[self._keys.lease], args=[f"{self._fence} {self._owner}"])
            except RedisError as error:
                _log.warning("the lease ends by itself in %s ms: %s", self._lease_ms, error)
        self._fence = None

    def _keep(self) -> None:
        try:
            self._renew_on()
        except Exception:  # without renewals the lease must not be considered held
            _log.exception("the lease is no longer renewed")
            self.lost.set()

    def _renew_on(self) -> None:
        args: list[str | int] = [self.fence, self._owner, self._lease_ms]
        keys = [self._keys.lease, self._keys.fence]
        while not self._stop.wait(self._renew_s):
            try:
                renewed = self._renew(keys=keys, args=args)
            except RedisError as error:  # unreachable or read-only: no worker can take over
                _log.warning("the lease cannot be renewed now: %s", error)
                continue
            if not renewed:
                self.lost.set()
                _log.error("another worker has taken the lease; fence %s is stale", args[0])
                return
