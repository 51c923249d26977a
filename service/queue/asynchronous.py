"""The queue seen from the api: submit, follow, cancel, ask."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from service.contracts import wire
from service.contracts.jobs import TERMINAL, Job, JobStatus, Lane
from service.contracts.schemas import WorkerReply, WorkerRequest
from service.queue import scripts
from service.queue.connection import block_ms
from service.queue.errors import QueueDown, RequestTimeout, WorkerGone, translating

_POLL_MS = 1000
_OUTAGE_S = 30.0
_ANSWER_S = 5.0
"""Longest wait for an answer of a server that hangs: a person is waiting."""


@translating
class AsyncQueue:
    """All Redis operations of the api, over one asyncio client.

    Every method raises :class:`QueueDown` if the server cannot be used now.
    """

    def __init__(self, client: Redis, keys: wire.Keys) -> None:
        self._client, self._keys = client, keys
        self._submit = client.register_script(scripts.SUBMIT)
        self._cancel = client.register_script(scripts.CANCEL)
        self._filled = client.register_script(scripts.FILLED)
        self._farewells: set[asyncio.Task[None]] = set()

    async def ping(self) -> bool:
        """Whether Redis answers."""
        try:
            return bool(await self._client.ping())
        except (RedisConnectionError, RedisTimeoutError):
            return False

    async def close(self) -> None:
        """Close the connections."""
        await asyncio.gather(*self._farewells)
        await self._client.aclose()

    async def worker_alive(self) -> wire.WorkerBeat | None:
        """The worker's last heartbeat, None if there was none for 5 s.

        QueueDown also if the server takes a connection and does not answer.
        """
        async with asyncio.timeout(_ANSWER_S):
            beat = await self._client.get(self._keys.worker)
        return wire.WorkerBeat.model_validate_json(beat) if beat else None

    async def worker_metrics(self) -> str | None:
        """The worker's page of metrics; None without a worker."""
        page: Any = await self._client.get(self._keys.metrics)
        return None if page is None else str(page)

    async def waiting(self, lane: Lane) -> wire.Waiting:
        """The jobs not begun in a lane; without a worker, an interrupted job counts as well."""
        stream = self._keys.lane(lane)
        jobs = int(await self._client.xlen(stream))
        entries: Any = await self._client.xrange(stream, count=2)
        if entries and await self.worker_alive() is not None:
            live = await self.live(entries[0][1]["id"])
            if live is not None and live.status is not JobStatus.QUEUED:
                jobs, entries = jobs - 1, entries[1:]
        if not entries:
            return wire.Waiting(0, 0.0)
        since = int(entries[0][0].partition("-")[0]) / 1000
        return wire.Waiting(jobs, max(0.0, time.time() - since))

    async def submit(self, job: Job) -> bool:
        """Append a journaled job; False (and nothing happens) if Redis knows its id."""
        keys, args = scripts.submit(self._keys, job)
        return bool(await self._submit(keys=keys, args=args))

    async def submit_in_turn(self, job: Job) -> bool:
        """As `submit`, but False if the server may lack jobs that were accepted before this one:
        it was started or emptied since `mark_filled`.
        """
        keys, args = scripts.submit(self._keys, job, in_turn=True)
        return int(await self._submit(keys=keys, args=args)) != -1

    async def mark_filled(self) -> None:
        """Record that all unfinished jobs have been submitted to this server."""
        await self._filled(keys=[self._keys.filled], args=[])

    async def live(self, job_id: str) -> wire.LiveJob | None:
        """The live state of a job in Redis; ``over(record)`` of it is the job's present state."""
        return wire.parse_live(await self._client.hgetall(self._keys.job(job_id)))

    async def request_cancel(self, job: Job) -> JobStatus | None:
        """Cancel: a queued job ends at once, a running one becomes ``cancelling``.

        Ask the store first (``store.request_cancel``).  The status afterwards; None for a job
        that Redis does not know.  ``cancelled``: save it in the store.
        """
        keys, args = scripts.cancel(self._keys, job.id, job.kind.lane)
        status = await self._cancel(keys=keys, args=args)
        return JobStatus(status) if status else None

    async def events(self, job_id: str, last_id: str = "0") -> AsyncGenerator[wire.JobEvent, None]:
        """A job's events after ``last_id``; ends after the terminal one.

        Also ends when Redis does not know the job, or knows that it has ended and has no further
        events: the final state is then in the store.  Survives a restart of Redis.
        """
        wait = 0  # first the existing events, so that the end of an ended job comes immediately
        while True:
            entries = await self._patient_read(self._keys.events(job_id), last_id, wait)
            wait = _POLL_MS
            for entry in entries:
                event = wire.parse_event(entry)
                last_id = event.id
                yield event
                if event.is_last:
                    return
            if not entries:
                live = await self.live(job_id)
                if live is None or live.status in TERMINAL:
                    return

    async def ask(self, request: WorkerRequest) -> AsyncGenerator[WorkerReply, None]:
        """Send a request to the worker and yield its answers, including the last one.

        Raises :class:`WorkerGone` if no worker is alive or it dies, :class:`RequestTimeout`
        after the deadline.  Close the iterator to tell the worker that nobody is waiting.
        """
        worker = await self.worker_alive()
        if worker is None:
            raise WorkerGone("no worker is alive")
        await self._put(request)
        answered = False
        try:
            async for reply in self._replies(request, worker.instance):
                answered = reply.event != "token"
                yield reply
        finally:
            if not answered:  # in a separate task: this one may be cancelled
                farewell = asyncio.create_task(self.abandon(request.id))
                self._farewells.add(farewell)
                farewell.add_done_callback(self._farewells.discard)

    async def _put(self, request: WorkerRequest) -> None:
        try:
            async with asyncio.timeout(_ANSWER_S):
                await self._client.xadd(
                    self._keys.requests,
                    {"request": request.model_dump_json()},
                    maxlen=wire.REQUESTS_KEPT,
                    approximate=True,
                )
        except ResponseError as error:
            if not str(error).startswith("MISCONF"):
                raise
            raise QueueDown(f"the queue takes nothing: {error}") from None

    async def abandon(self, request_id: str) -> None:
        """Tell the worker that nobody waits for this answer."""
        try:
            await self._client.set(self._keys.gone(request_id), 1, ex=wire.GONE_TTL_S)
        except RedisError:
            return  # its deadline will end it

    async def _replies(
        self, request: WorkerRequest, instance: str
    ) -> AsyncGenerator[WorkerReply, None]:
        last_id = "0"
        while (left := request.deadline - time.time()) > 0:
            wait = max(1, min(_POLL_MS, int(left * 1000)))
            entries = await self._read(self._keys.reply(request.id), last_id, wait)
            for entry_id, fields in entries:
                last_id = entry_id
                reply = WorkerReply.model_validate_json(fields["reply"])
                yield reply
                if reply.event != "token":
                    return
            if not entries:
                worker = await self.worker_alive()
                if worker is None or worker.instance != instance:
                    raise WorkerGone("the worker has gone before it answered")
        raise RequestTimeout("the worker did not answer in time")

    async def _patient_read(
        self, key: str, last_id: str, wait: int
    ) -> list[tuple[str, dict[str, str]]]:
        give_up = time.monotonic() + _OUTAGE_S
        while True:
            try:
                return await self._read(key, last_id, wait)
            except (RedisConnectionError, RedisTimeoutError, TimeoutError):
                if time.monotonic() > give_up:
                    raise
                await asyncio.sleep(1)

    async def _read(self, key: str, last_id: str, wait: int) -> list[tuple[str, dict[str, str]]]:
        async with asyncio.timeout(wait / 1000 + _ANSWER_S):
            reply: Any = await self._client.xread({key: last_id}, count=100, block=block_ms(wait))
        return list(reply[0][1]) if reply else []
