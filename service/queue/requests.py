"""Requests that are answered immediately (generation, rollback), seen from the worker."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from redis import Redis
from redis.exceptions import RedisError, ResponseError

from service.contracts import wire
from service.contracts.schemas import WorkerReply, WorkerRequest
from service.queue.connection import block_ms
from service.queue.errors import translated, translating
from service.queue.jobs import create_group

_log = logging.getLogger(__name__)


@translating
class RequestQueue:
    """Takes requests and streams answers.  Never retried: a request ends with its worker."""

    def __init__(self, client: Redis, keys: wire.Keys) -> None:
        self._client, self._keys = client, keys

    def take(self, wait_ms: float, count: int) -> list[WorkerRequest]:
        """Up to ``count`` requests, oldest first, that somebody still waits for."""
        entries = self._read(block_ms(wait_ms), count)
        if not entries:
            return []
        self._client.xdel(self._keys.requests, *(entry for entry, _ in entries))
        requests = [WorkerRequest.model_validate_json(f["request"]) for _, f in entries]
        gone, moment = self.gone([request.id for request in requests]), time.time()
        return [r for r in requests if r.id not in gone and r.deadline > moment]

    def reply(self, request_id: str, reply: WorkerReply) -> None:
        """Append to the answer; ``result`` and ``error`` end it."""
        self.reply_all([(request_id, reply)])

    def reply_all(self, replies: Sequence[tuple[str, WorkerReply]]) -> None:
        """Append to several answers in one round trip, each as :meth:`reply`."""
        with self._client.pipeline(transaction=True) as pipe:
            for request_id, reply in replies:
                key = self._keys.reply(request_id)
                pipe.xadd(key, {"reply": reply.model_dump_json()})
                pipe.expire(key, wire.REPLY_TTL_S)
            pipe.execute()

    def gone(self, request_ids: Sequence[str]) -> set[str]:
        """The requests among these whose answers nobody waits for any more."""
        if not request_ids:
            return set()
        flags: Any = self._client.mget([self._keys.gone(i) for i in request_ids])
        return {i for i, flag in zip(request_ids, flags, strict=True) if flag is not None}

    def _read(self, block: int | None, count: int) -> list[tuple[str, dict[str, str]]]:
        try:
            reply: Any = self._client.xreadgroup(
                wire.GROUP,
                wire.CONSUMER,
                {self._keys.requests: ">"},
                count=count,
                block=block,
                noack=True,
            )
        except ResponseError as error:
            if not str(error).startswith("NOGROUP"):
                raise
            create_group(self._client, self._keys.requests)
            return self._read(block, count)
        return list(reply[0][1]) if reply else []


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
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Beat once, then go on in the background."""
        self._beat()
        self._thread.start()

    def stop(self) -> None:
        """Stop, and publish that immediately."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=2)
        try:
            self._client.delete(self._keys.worker, self._keys.metrics)
        except RedisError as error:
            _log.warning("the heartbeat ends by itself in 5 s: %s", error)

    def _run(self) -> None:
        while not self._stop.wait(self.PERIOD_S):
            try:
                self._beat()
            except RedisError as error:
                _log.warning("no heartbeat: %s", error)

    def _beat(self) -> None:
        with self._client.pipeline(transaction=True) as pipe:
            pipe.set(self._keys.worker, self._describe().model_dump_json(), px=self.TTL_MS)
            if self._metrics is not None:
                pipe.set(self._keys.metrics, self._metrics(), px=self.TTL_MS)
            pipe.execute()


def is_worker_alive(client: Redis, keys: wire.Keys) -> bool:
    """Whether a worker has sent a heartbeat in the last 5 s; QueueFailure as everywhere."""
    with translated():
        return client.get(keys.worker) is not None
