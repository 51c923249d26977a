"""Requests that are answered immediately (generation, rollback), seen from the worker."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from redis import Redis
from redis.exceptions import RedisError, ResponseError

from service.contracts import wire
from service.contracts.schemas import WorkerReply, WorkerRequest
from service.queue.connection import block_ms
from service.queue.errors import translated, translating
from service.queue.jobs import create_group
from service.queue.members import unix_time

_log = logging.getLogger(__name__)


@translating
class RequestQueue:
    """Takes requests and streams answers.

    ``instance`` is that of the worker's heartbeat, by which who asks sees that it lives.  A
    ``writer`` takes also what changes the store.  ``takes``: whether this worker takes its share
    of the requests that all may answer; what was sent to itself alone it always takes.
    """

    def __init__(
        self,
        client: Redis,
        keys: wire.Keys,
        instance: str | None = None,
        writer: bool = True,
        takes: Callable[[], bool] = lambda: True,
    ) -> None:
        self._client, self._keys, self._takes = client, keys, takes
        self.instance = instance or uuid4().hex
        self._own = [keys.mailbox(self.instance), *([keys.requests] if writer else [])]

    def take(self, wait_ms: float, count: int) -> list[WorkerRequest]:
        """Up to ``count`` requests of each stream that somebody still waits for."""
        entries = self._read(block_ms(wait_ms), count)
        if not entries:
            return []
        asked = [WorkerRequest.model_validate_json(fields["request"]) for *_, fields in entries]
        with self._client.pipeline(transaction=False) as pipe:
            pipe.time()
            pipe.mget([self._keys.gone(request.id) for request in asked])
            clock, gone = pipe.execute()
        requests = [
            _received(entry, request, unix_time(clock))
            for (_, entry, _), request in zip(entries, asked, strict=True)
        ]
        moment = time.time()
        wanted = [
            request
            for request, flag in zip(requests, gone, strict=True)
            if flag is None and request.deadline > moment
        ]
        taken = WorkerReply(event="taken", data={"by": self.instance})
        with self._client.pipeline(transaction=True) as pipe:
            for stream, entry, _ in entries:
                pipe.xack(stream, wire.GROUP, entry)
                pipe.xdel(stream, entry)
            for request in wanted:
                self._append(pipe, request.id, taken)
            pipe.execute()
        return wanted

    def reply(self, request_id: str, reply: WorkerReply) -> None:
        """Append to the answer; ``result`` and ``error`` end it."""
        self.reply_all([(request_id, reply)])

    def reply_all(self, replies: Sequence[tuple[str, WorkerReply]]) -> None:
        """Append to several answers in one round trip, each as :meth:`reply`."""
        with self._client.pipeline(transaction=True) as pipe:
            for request_id, reply in replies:
                self._append(pipe, request_id, reply)
            pipe.execute()

    def gone(self, request_ids: Sequence[str]) -> set[str]:
        """The requests among these whose answers nobody waits for any more."""
        if not request_ids:
            return set()
        flags: Any = self._client.mget([self._keys.gone(i) for i in request_ids])
        return {i for i, flag in zip(request_ids, flags, strict=True) if flag is not None}

    def leave(self) -> None:
        """Forget this worker's stream and its place in the others.

        Where it has been sent what it has not taken, the place stays: by it that is found.
        """
        with suppress(RedisError):
            self._client.delete(self._keys.mailbox(self.instance))
            for stream in (self._keys.asks, self._keys.requests):
                if not self._client.xpending_range(stream, wire.GROUP, "-", "+", 1, self.instance):
                    self._client.xgroup_delconsumer(stream, wire.GROUP, self.instance)

    def _append(self, pipe: Any, request_id: str, reply: WorkerReply) -> None:
        key = self._keys.reply(request_id)
        pipe.xadd(key, {"reply": reply.model_dump_json()})
        pipe.expire(key, wire.REPLY_TTL_S)

    def _read(self, block: int | None, count: int) -> list[tuple[str, str, dict[str, str]]]:
        streams = [*self._own, *([self._keys.asks] if self._takes() else [])]
        try:
            reply: Any = self._client.xreadgroup(
                wire.GROUP, self.instance, dict.fromkeys(streams, ">"), count=count, block=block
            )
        except ResponseError as error:
            if not str(error).startswith("NOGROUP"):
                raise
            for stream in streams:
                create_group(self._client, stream)
            self._client.expire(self._keys.mailbox(self.instance), wire.MAILBOX_TTL_S)
            return self._read(block, count)
        return [(stream, *entry) for stream, entries in reply or () for entry in entries]


@translating
class Heartbeat:
    """A daemon thread that publishes that this worker is alive, what it serves, and its metrics."""

    PERIOD_S = 1.0
    TTL_MS = 5000

    def __init__(
        self,
        client: Redis,
        keys: wire.Keys,
        describe: Callable[[], wire.WorkerBeat],
        metrics: Callable[[], str] | None = None,
    ) -> None:
        self._client, self._keys = client, keys
        self._describe, self._metrics = describe, metrics
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._last: wire.WorkerBeat | None = None
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Beat once, then go on in the background."""
        self._beat()
        self._thread.start()

    def beat(self) -> None:
        """Publish now what has changed."""
        try:
            self._beat()
        except RedisError as error:
            _log.warning("no heartbeat: %s", error)

    def stop(self) -> None:
        """Stop, and publish that immediately."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=2)
        try:
            with self._lock:
                self._client.delete(*self._names())
                if self._last is not None and self._last.role == "follower":
                    self._client.zrem(self._keys.followers, self._last.instance)
        except RedisError as error:
            _log.warning("the heartbeat ends by itself in 5 s: %s", error)

    def _run(self) -> None:
        while not self._stop.wait(self.PERIOD_S):
            try:
                self._beat()
            except RedisError as error:
                _log.warning("no heartbeat: %s", error)
            except Exception:  # without one, a worker that works would be taken for dead for good
                _log.exception("no heartbeat")

    def _names(self) -> tuple[str, str]:
        """The keys of the heartbeat and of the metrics."""
        keys, last = self._keys, self._last
        if last is None or last.role == "writer":
            return keys.worker, keys.metrics
        return keys.follower(last.instance), keys.follower_metrics(last.instance)

    def _beat(self) -> None:
        with self._lock, self._client.pipeline(transaction=True) as pipe:
            clock: Any = self._client.time()
            moment = unix_time(clock)
            sent_at = datetime.fromtimestamp(moment, UTC)
            self._last = last = self._describe().model_copy(update={"sent_at": sent_at})
            alive, metrics = self._names()
            pipe.set(alive, last.model_dump_json(), px=self.TTL_MS)
            if self._metrics is not None:
                pipe.set(metrics, self._metrics(), px=self.TTL_MS)
            pipe.expire(self._keys.mailbox(last.instance), wire.MAILBOX_TTL_S)
            if last.role == "follower":
                pipe.zadd(self._keys.followers, {last.instance: moment})
                pipe.zremrangebyscore(self._keys.followers, "-inf", moment - wire.FOLLOWERS_KEPT_S)
            pipe.execute()


def _received(entry: str, request: WorkerRequest, clock_s: float) -> WorkerRequest:
    """A request whose deadline is by this host's clock.

    How long it has waited is known by the clock of the queue's server alone, which has made the
    entry's id from it.
    """
    if request.left_s is None:
        return request
    waited_s = max(0.0, clock_s - int(entry.partition("-")[0]) / 1000)
    return request.model_copy(update={"deadline": time.time() + request.left_s - waited_s})


def is_worker_alive(client: Redis, keys: wire.Keys) -> bool:
    """Whether a worker has sent a heartbeat in the last 5 s; QueueFailure as everywhere."""
    with translated():
        return client.get(keys.worker) is not None
