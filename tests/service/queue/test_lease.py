"""The lease: one writer at a time, outdated writers recognised."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from redis import Redis
from support.service.builders import KEYS

from service.queue import Lease, LeaseHeld
from service.settings import Settings


class TestLease:
    @staticmethod
    def lease(client: Redis, store: str, lease_ms: int = 30_000) -> Lease:
        return Lease(
            client,
            KEYS,
            Settings(store=Path(store), lease_ms=lease_ms, lease_renew_s=lease_ms / 4000),
        )

    def test_a_fence_is_greater_than_all_before(self, client: Redis) -> None:
        lease = self.lease(client, "/a")
        fences = []
        for store_fence in (0, 0, 41, 0):
            fences.append(lease.acquire(store_fence))
            lease.release()
        assert fences == [1, 2, 42, 43]

    def test_a_lost_redis_does_not_lower_the_fence_below_the_stores(self, client: Redis) -> None:
        lease = self.lease(client, "/a")
        fence = lease.acquire(41)
        lease.release()
        client.flushall()
        assert lease.acquire(fence) == fence + 1
        lease.release()

    def test_a_second_worker_waits_until_the_first_one_releases(self, client: Redis) -> None:
        first, second = self.lease(client, "/a"), self.lease(client, "/b")
        first.acquire(0)
        with pytest.raises(LeaseHeld):
            second.acquire(0, wait_s=0)
        threading.Timer(0.1, first.release).start()
        assert second.acquire(0, wait_s=5) == 2
        second.release()

    def test_waiting_is_told_and_can_be_stopped(
        self, client: Redis, caplog: pytest.LogCaptureFixture
    ) -> None:
        first, second, stop = self.lease(client, "/a"), self.lease(client, "/b"), threading.Event()
        first.acquire(0)
        stop.set()
        with pytest.raises(LeaseHeld):
            second.acquire(0, stop=stop)
        assert caplog.text.count("another worker holds the lease of this store") == 1
        first.release()

    def test_a_new_worker_of_the_same_store_need_not_wait_for_a_dead_one(
        self, client: Redis
    ) -> None:
        dead = self.lease(client, "/a")
        dead.acquire(0)
        new = self.lease(client, "/a")
        assert new.acquire(0, wait_s=0) == 2
        new.release()
        dead.release()

    def test_a_lease_is_renewed(self, client: Redis) -> None:
        lease = self.lease(client, "/a", lease_ms=200)
        lease.acquire(0)
        time.sleep(0.5)
        assert client.get(KEYS.lease) is not None
        assert not lease.lost.is_set()
        lease.release()
        assert client.get(KEYS.lease) is None

    def test_a_lease_that_ran_out_is_taken_again_if_nobody_came(self, client: Redis) -> None:
        lease = self.lease(client, "/a", lease_ms=200)
        fence = lease.acquire(0)
        client.flushall()
        time.sleep(0.2)
        assert not lease.lost.is_set()
        assert client.get(KEYS.fence) == str(fence)
        lease.release()

    def test_a_lease_is_renewed_again_after_redis_was_full(self, client: Redis) -> None:
        lease = self.lease(client, "/a", lease_ms=200)
        lease.acquire(0)
        client.config_set("maxmemory", "1")
        time.sleep(0.3)
        client.config_set("maxmemory", "0")
        time.sleep(0.3)
        assert client.get(KEYS.lease) is not None
        assert not lease.lost.is_set()
        lease.release()

    def test_a_lease_that_can_no_longer_be_renewed_is_lost(self, client: Redis) -> None:
        lease = self.lease(client, "/a", lease_ms=200)
        lease.acquire(0)
        lease._renew = None  # whatever breaks the renewing thread
        assert lease.lost.wait(2)
        lease.release()

    def test_a_worker_learns_that_another_one_came(self, client: Redis) -> None:
        lease = self.lease(client, "/a", lease_ms=200)
        lease.acquire(0)
        client.delete(KEYS.lease)
        other = self.lease(client, "/b")
        other.acquire(0, wait_s=1)
        assert lease.lost.wait(2)
        lease.release()
        assert client.get(KEYS.lease) is not None
        other.release()
