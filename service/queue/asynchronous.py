"""The queue seen from the api: submit, follow, cancel, ask."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from service.contracts import wire
from service.contracts.jobs import TERMINAL, Job, JobStatus, Lane
from service.contracts.schemas import WorkerReply, WorkerRequest
from service.queue import scripts
from service.queue.asking import ANSWER_S, POLL_MS, STALL_S, Asking
from service.queue.errors import translating
from service.queue.jobs import TAKEN_SEEN
from service.queue.members import unix_time

_OUTAGE_S = 30.0


@translating
class AsyncQueue:
    """All Redis operations of the api, over one asyncio client.

    Every method raises :class:`QueueDown` if the server cannot be used now.
    """

    def __init__(self, client: Redis, keys: wire.Keys, stall_s: float = STALL_S) -> None:
        self._client, self._keys = client, keys
        self._submit = client.register_script(scripts.SUBMIT)
        self._cancel = client.register_script(scripts.CANCEL)
        self._filled = client.register_script(scripts.FILLED)
        self._asking = Asking(client, keys, stall_s)

    async def ping(self) -> bool:
        """Whether Redis answers."""
        try:
            return bool(await self._client.ping())
        except (RedisConnectionError, RedisTimeoutError):
            return False

    async def close(self) -> None:
        """Close the connections."""
        await self._asking.close()
        await self._client.aclose()

    async def worker_alive(self) -> wire.WorkerBeat | None:
        """The writer's last heartbeat, None if there was none for 5 s.

        QueueDown also if the server takes a connection and does not answer.
        """
        async with asyncio.timeout(ANSWER_S):
            beat = await self._client.get(self._keys.worker)
        return wire.WorkerBeat.model_validate_json(beat) if beat else None

    async def worker_metrics(self) -> str | None:
        """The worker's page of metrics; None without a worker."""
        page: Any = await self._client.get(self._keys.metrics)
        return None if page is None else str(page)

    async def waiting(self, lane: Lane) -> wire.Waiting:
        """The jobs not begun in a lane; without a worker, an interrupted job counts as well."""
        found = (await self.waiting_for(lane)).values()
        oldest = max(one.oldest_seconds for one in found)
        return wire.Waiting(sum(one.jobs for one in found), oldest)

    async def waiting_for(self, lane: Lane) -> dict[wire.Taker, wire.Waiting]:
        """The same, apart for jobs that only the writer takes and jobs that any worker takes."""
        return {
            taker: await self._waiting(stream) for taker, stream in self._keys.takers(lane).items()
        }

    async def _waiting(self, stream: str) -> wire.Waiting:
        """The jobs of a stream that no worker that lives has begun, by the server's clock."""
        taken = await self._taken(stream)
        workers = await self.workers() if taken else []
        alive = {wire.CONSUMER if one.role == "writer" else one.instance for one in workers}
        async with self._client.pipeline(transaction=False) as pipe:
            pipe.time()
            pipe.xlen(stream)
            pipe.xrange(stream, count=len(taken) + 1)
            moment, jobs, entries = await pipe.execute()
        waiting = []
        for entry, fields in entries:
            live = await self.live(fields["id"]) if taken.get(entry) in alive else None
            if live is None or live.status is JobStatus.QUEUED:
                waiting.append(entry)
        if not waiting:
            return wire.Waiting(0, 0.0)
        since = int(waiting[0].partition("-")[0]) / 1000
        begun = len(entries) - len(waiting)
        return wire.Waiting(jobs - begun, max(0.0, unix_time(moment) - since))

    async def _taken(self, stream: str) -> dict[str, str]:
        """The workers that have taken entries of a stream and not finished them, by entry."""
        try:
            found: Any = await self._client.xpending_range(stream, wire.GROUP, "-", "+", TAKEN_SEEN)
        except ResponseError as error:
            if not str(error).startswith("NOGROUP"):  # no worker has looked for jobs yet
                raise
            return {}
        return {one["message_id"]: one["consumer"] for one in found}

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
        keys, args = scripts.cancel(self._keys, job.id, self._keys.stream(job))
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
            wait = POLL_MS
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

    async def workers(self) -> list[wire.WorkerBeat]:
        """The last heartbeats of all workers that live, the writer's first."""
        return await self._asking.workers()

    async def follower_metrics(self) -> dict[str, str]:
        """The pages of metrics of the followers that live, by instance."""
        ids: Any = await self._client.zrange(self._keys.followers, 0, -1)
        names = [self._keys.follower_metrics(one) for one in ids]
        pages: Any = await self._client.mget(names) if names else []
        return {one: page for one, page in zip(ids, pages, strict=True) if page}

    async def ask(self, request: WorkerRequest) -> AsyncGenerator[WorkerReply, None]:
        """Send a request to a worker and yield its answers, including the last one.

        If the worker dies or hangs before its first token, another one is asked, once.

        Raises :class:`WorkerGone` if no worker is alive, :class:`RequestLost` if the second one was
        lost as well, :class:`AnswerBrokenOff` if there were tokens, :class:`RequestTimeout`
        after the deadline.  Close the iterator to tell the worker that nobody is waiting.
        """
        async with aclosing(self._asking.ask(request)) as replies:
            async for reply in replies:
                yield reply

    async def abandon(self, request_id: str) -> None:
        """Tell the worker that nobody waits for this answer."""
        await self._asking.abandon(request_id)

    async def _patient_read(
        self, key: str, last_id: str, wait: int
    ) -> list[tuple[str, dict[str, str]]]:
        give_up = time.monotonic() + _OUTAGE_S
        while True:
            try:
                return await self._asking.read(key, last_id, wait)
            except (RedisConnectionError, RedisTimeoutError, TimeoutError):
                if time.monotonic() > give_up:
                    raise
                await asyncio.sleep(1)
