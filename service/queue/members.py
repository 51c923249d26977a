"""The workers of a store that live, seen from one of them."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from threading import Lock
from typing import Any

from redis import Redis
from redis.exceptions import RedisError, ResponseError

from service.contracts import wire

_log = logging.getLogger(__name__)
FRESH_S = 0.5
"""How long what was heard counts: several threads ask, several times a second."""
FORGOTTEN_MS = 60_000


class Members:
    """Heartbeats of the others; while the queue does not answer, the last ones that were read."""

    def __init__(self, client: Redis, keys: wire.Keys) -> None:
        self._client, self._keys = client, keys
        self._lock = Lock()
        self._read_at = 0.0
        self._writer: wire.WorkerBeat | None = None
        self._followers: list[wire.WorkerBeat] = []

    def followers(self) -> list[wire.WorkerBeat]:
        """The followers that live."""
        self._refresh()
        return self._followers

    def is_follower_taking(self) -> bool:
        """Whether a follower takes requests and can answer from head."""
        return any(one.takes and is_able(one) for one in self.followers())

    def is_another_for(self, follower: str, pauses: bool) -> bool:
        """Whether others take the requests that a follower leaves to them; they never all do so.

        An able writer does: it leaves requests only to followers that take them.  Without one, a
        follower that ``pauses`` leaves them to those with smaller instances alone, as what is known
        of the others is a second old, and two of them could each count on the other.
        """
        self._refresh()
        if self._writer is not None and is_able(self._writer):
            return True
        return any(
            one.takes
            and is_able(one)
            and (one.instance < follower if pauses else one.instance != follower)
            for one in self._followers
        )

    def consumers(self) -> set[str]:
        """The names under which workers that live take jobs."""
        self._refresh()
        found = {one.instance for one in self._followers}
        return found | {wire.CONSUMER} if self._writer is not None else found

    def forget_dead(self) -> None:
        """Remove the names of workers that have died from the streams of requests."""
        self._refresh()
        alive = {one.instance for one in self._followers}
        for stream in (self._keys.asks, self._keys.requests, self._keys.shared):
            with suppress(ResponseError):  # there is no such stream yet
                known: Any = self._client.xinfo_consumers(stream, wire.GROUP)
                for one in known:
                    free = one["pending"] == 0 and one["idle"] > FORGOTTEN_MS
                    if free and one["name"] not in {*alive, wire.CONSUMER}:
                        self._client.xgroup_delconsumer(stream, wire.GROUP, one["name"])

    def writer(self) -> wire.WorkerBeat | None:
        """The writer's last heartbeat, None where it does not live."""
        self._refresh()
        return self._writer

    def _refresh(self) -> None:
        with self._lock:
            if time.monotonic() - self._read_at < FRESH_S:
                return
            try:
                writer: Any = self._client.get(self._keys.worker)
                ids: Any = self._client.zrange(self._keys.followers, 0, -1)
                found: Any = self._client.mget([self._keys.follower(i) for i in ids]) if ids else []
            except RedisError as error:
                _log.warning("the other workers are not heard: %s", error)
                return
            self._writer = wire.WorkerBeat.model_validate_json(writer) if writer else None
            self._followers = beats(found)
            self._read_at = time.monotonic()


def is_able(worker: wire.WorkerBeat) -> bool:
    """Whether a worker can answer from the version that it has followed head to."""
    has_head = worker.head is not None and worker.head not in worker.damaged
    return worker.state == "ready" and has_head


def beats(texts: Sequence[str | None]) -> list[wire.WorkerBeat]:
    """The heartbeats among what was found under their keys."""
    return [wire.WorkerBeat.model_validate_json(text) for text in texts if text]


def heard(found: Sequence[wire.WorkerBeat], moment: tuple[int, int]) -> list[wire.WorkerBeat]:
    """Heartbeats with how long ago each was, by the time (s, µs) of the queue's server."""
    now_s = unix_time(moment)
    return [
        one.model_copy(update={"age_s": max(0.0, now_s - one.sent_at.timestamp())})
        if one.sent_at is not None
        else one
        for one in found
    ]


def unix_time(moment: tuple[int, int]) -> float:
    """Seconds from the answer of ``TIME``: the one clock that all who use the queue share."""
    seconds, micros = moment
    return seconds + micros / 1e6
