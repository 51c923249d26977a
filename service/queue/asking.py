"""Requests that are answered without a job, seen from the api: who gets them, and who else.

A request is taken by one worker.  If that one dies, hangs or stops before it has sent a token, or
has an error that another need not have, the request is done again by another, once.  Only what
reads is done again: what changes the store is the writer's, and ends with it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing
from hashlib import blake2b
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from service.contracts import wire
from service.contracts.jobs import new_id
from service.contracts.schemas import WorkerReply, WorkerRequest
from service.contracts.schemas.worker import GENERATIONS, WRITING
from service.queue.connection import block_ms
from service.queue.errors import (
    AnswerBrokenOff,
    QueueDown,
    RequestLost,
    RequestTimeout,
    WorkerGone,
)
from service.queue.members import FRESH_S, beats, heard, is_able

log = logging.getLogger(__name__)
POLL_MS = 1000
HELD = 2
"""How many times as long nobody looks after a request that a worker has said to hold: each look
costs about as much as a token, and hundreds wait.
"""
ANSWER_S = 5.0
"""Longest wait for an answer of a server that hangs: a person is waiting."""
FAREWELL_S = 2.0
"""Longest wait of an api that ends for a server that hangs: its own end is waited for, too."""
STALL_S = 30.0
STOPPING = "stopping"
ELSEWHERE = (
    STOPPING,
    "unknown_version",
    "version_not_fetched",
    "corrupt_version",
    "corrupt_file",
    "out_of_memory",
    "temporarily_unavailable",
)
"""Errors of a worker that another one need not have: the api has seen every version it asks for,
and memory, disks and copies of files are each worker's own.
"""
OVERFLOW = 8
"""How many requests more than the least loaded worker one may have before another worker is given
the version, too.

Below that it gains little: rows of one version are decoded together, so a few more cost hardly any
time, while the other one has to read the version and forgets another for it.
"""
OWN = ("taken", "progress")
"""Replies that are not for who asks."""

Entries = list[tuple[str, dict[str, str]]]


class _Lost(WorkerGone):
    """A worker does not answer.  ``taken``: it had begun to, so that this was a try.

    ``error``: what it has said, where another may do better.
    """

    def __init__(
        self, by: str | None, taken: bool = True, error: WorkerReply | None = None
    ) -> None:
        super().__init__(by, taken)
        self.by, self.taken, self.error = by, taken, error


class Asking:
    """Sends requests to workers.  For `AsyncQueue`, which translates the errors of redis.

    ``stall_s``: a worker that shows no progress for so long is given up where there is another.
    """

    def __init__(self, client: Redis, keys: wire.Keys, stall_s: float = STALL_S) -> None:
        self._client, self._keys, self._stall_s = client, keys, stall_s
        self._sent: Counter[str] = Counter()
        self._heard: dict[str, wire.WorkerBeat] = {}
        self._followers: list[str] = []
        self._heard_at, self._hearing = 0.0, asyncio.Lock()
        self._farewells: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Wait until every worker has been told that nobody waits for it, or for `FAREWELL_S`."""
        if self._farewells:
            _, left = await asyncio.wait(self._farewells, timeout=FAREWELL_S)
            for one in left:
                one.cancel()

    async def workers(self) -> list[wire.WorkerBeat]:
        """The last heartbeats of the workers that live, the writer's first."""
        known = self._followers
        async with asyncio.timeout(ANSWER_S):
            async with self._client.pipeline(transaction=False) as pipe:
                pipe.get(self._keys.worker)
                pipe.zrange(self._keys.followers, 0, -1)
                pipe.time()
                if known:  # they are mostly the same ones as before
                    pipe.mget([self._keys.follower(one) for one in known])
                writer, ids, moment, *found = await pipe.execute()
            if ids != known:
                self._followers = ids
                names = [self._keys.follower(one) for one in ids]
                found = [await self._client.mget(names)] if ids else []
        return heard(beats([writer, *(found[0] if found else ())]), moment)

    async def ask(self, request: WorkerRequest) -> AsyncGenerator[WorkerReply, None]:
        """Send a request to a worker and yield its answers, including the last one."""
        errors: list[WorkerReply] = []
        try:
            async with aclosing(self._tries(request, errors)) as replies:
                async for reply in replies:
                    yield reply
        except (WorkerGone, RequestLost):
            if not errors:
                raise
            yield errors[0]

    async def _tries(
        self, request: WorkerRequest, errors: list[WorkerReply]
    ) -> AsyncGenerator[WorkerReply, None]:
        """The replies of one worker, else of another; ``errors`` gets what the first has said.

        That says more than that the second one was lost; but for a worker that stops, of which
        there may be a successor.
        """
        given_up: list[str] = []
        whole_s = request.deadline - time.time()
        tokens, tried = 0, False
        while True:
            stream = await self._place(request, given_up)
            entry = await self._put(stream, request)
            answered, lost = False, None
            self._sent[stream] += 1
            try:
                async with aclosing(self._replies(request, stream, entry, tried)) as replies:
                    async for reply in replies:
                        answered = reply.event != "token"
                        yield reply
                        tokens += not answered
            except _Lost as error:
                lost = error
            finally:
                self._sent[stream] -= 1
                if not answered:  # in a separate task: this one may be cancelled
                    self._take_leave(request.id, stream, entry)
            if lost is None:
                return
            if tokens:
                raise AnswerBrokenOff(
                    f"the worker that wrote this answer is gone after {tokens} tokens: ask again, "
                    "and leave out what has come so far"
                )
            if request.kind in WRITING:
                raise WorkerGone("the worker has gone before it answered")
            if lost.taken and tried:
                raise RequestLost(
                    "two workers have died, or gone no further, while they had this request: ask "
                    "again, for less at once if it happens again"
                )
            if lost.error is not None and lost.error.data.get("code") != STOPPING:
                errors.append(lost.error)
            given_up += [] if lost.by is None else [lost.by]
            log.warning("%s has not answered %s, another worker is asked", lost.by, request.id)
            # another id: whoever was given up may go on, and must not write into this answer
            request = request.model_copy(update={"id": new_id("ask")})
            if lost.taken:  # the second has as long as the first had: a hang has used up its time
                tried = True
                request = request.model_copy(update={"deadline": time.time() + whole_s})

    async def _place(self, request: WorkerRequest, given_up: Collection[str]) -> str:
        """The stream for a request.

        One that names versions goes to a worker that has them in memory, or to the one that will
        have: the same one for a version, as long as it lives.  Where these have `OVERFLOW` requests
        more than another, it goes to the next one in the version's own order of workers.

        What a worker has not answered is sent to another by name: from the shared stream the same
        one might take it again.  Those that can answer from head are preferred.
        """
        alive = await self.workers()
        if request.kind in WRITING:
            alive = [one for one in alive if one.role == "writer"]
        if not alive:
            raise WorkerGone("no worker is running now")
        if request.kind in WRITING:
            return self._keys.requests
        others = [one for one in alive if one.instance not in given_up]
        if not others:
            raise WorkerGone("the worker has gone before it answered, and there is no other")
        ready = [one for one in others if one.state == "ready"]
        ready = [one for one in ready if is_able(one)] or ready
        takers = [one for one in ready if one.takes]
        if given_up and ready:
            return self._mailbox_of(min(takers or ready, key=self._load_of))
        pinned = {*request.pinned} - {"v0"}
        having = [one for one in takers if pinned <= {*one.versions}]
        if not takers or len(having) == len(takers):
            return self._keys.asks
        name = ",".join(sorted(pinned))
        lacking = [one for one in takers if one not in having]
        lacking.sort(key=lambda one: _weight(name, one.instance), reverse=True)
        most = min(map(self._load_of, takers)) + OVERFLOW
        order = [*sorted(having, key=self._load_of), *lacking]
        return self._mailbox_of(next(one for one in order if self._load_of(one) <= most))

    def _load_of(self, worker: wire.WorkerBeat) -> int:
        """The number of its requests; those that this api has sent its beat may not count yet."""
        return max(worker.load, self._sent[self._mailbox_of(worker)])

    def _mailbox_of(self, worker: wire.WorkerBeat) -> str:
        return self._keys.mailbox(worker.instance)

    async def _put(self, stream: str, request: WorkerRequest) -> str:
        sent = request.model_copy(update={"left_s": request.deadline - time.time()})
        try:
            async with asyncio.timeout(ANSWER_S):
                entry: Any = await self._client.xadd(
                    stream,
                    {"request": sent.model_dump_json()},
                    maxlen=wire.REQUESTS_KEPT,
                    approximate=True,
                )
        except ResponseError as error:
            if not str(error).startswith("MISCONF"):
                raise
            raise QueueDown(f"the queue takes nothing: {error}") from None
        if stream not in (self._keys.asks, self._keys.requests):
            await self._client.expire(stream, wire.MAILBOX_TTL_S)
        return str(entry)

    async def abandon(self, request_id: str) -> None:
        """Tell the worker that nobody waits for this answer."""
        try:
            await self._client.set(self._keys.gone(request_id), 1, ex=wire.GONE_TTL_S)
        except RedisError:
            return  # its deadline will end it

    def _take_leave(self, request_id: str, stream: str, entry: str) -> None:
        farewell = asyncio.create_task(self._leave(request_id, stream, entry))
        self._farewells.add(farewell)
        farewell.add_done_callback(self._farewells.discard)

    async def _leave(self, request_id: str, stream: str, entry: str) -> None:
        """Let nobody begin with a request that nobody waits for."""
        await self.abandon(request_id)
        try:
            await self._client.xack(stream, wire.GROUP, entry)
            await self._client.xdel(stream, entry)
        except RedisError:
            return  # whoever takes it sees that it was abandoned

    async def _replies(
        self, request: WorkerRequest, stream: str, entry: str, again: bool
    ) -> AsyncGenerator[WorkerReply, None]:
        """A worker's replies; ``again``: it is the second try, so its refusal is the answer."""
        last_id, holder, silent_since = "0", _Holder(), time.monotonic()
        begun = False
        while (left := request.deadline - time.time()) > 0:
            look_ms = POLL_MS * (HELD if holder.taken else 1)
            wait = 0 if holder.lost else max(1, min(look_ms, int(left * 1000)))
            entries = await self.read(self._keys.reply(request.id), last_id, wait)
            for entry_id, fields in entries:
                last_id = entry_id
                reply = WorkerReply.model_validate_json(fields["reply"])
                if reply.event == "taken":
                    holder.by, holder.taken = str(reply.data["by"]), True
                if reply.event in OWN:
                    continue
                passed_on = not again and self._is_for_another(request, reply, begun)
                if passed_on and await self._is_another_able(holder.by):
                    raise _Lost(holder.by, taken=True, error=reply)
                yield reply
                begun = True
                if reply.event != "token":
                    return
            if entries:
                silent_since, holder.lost = time.monotonic(), False
            elif holder.lost:  # and nothing has come since that was seen
                raise _Lost(holder.by, taken=holder.taken)
            else:
                await self._look(request, stream, entry, holder, time.monotonic() - silent_since)
        raise RequestTimeout("the worker did not answer in time")

    async def _look(
        self, request: WorkerRequest, stream: str, entry: str, holder: _Holder, silent_s: float
    ) -> None:
        """Find out who has a request that was silent, and whether that one still works on it."""
        if not holder.taken:
            holder.by = await self._reader_of(stream, entry, holder)
        if holder.by is None and stream in (self._keys.asks, self._keys.requests):
            writing, alive = request.kind in WRITING, await self.workers()
            if not any(one.role == "writer" or not writing for one in alive):
                raise WorkerGone("the worker has gone before it answered")
            return
        by = holder.by or stream.rpartition(":")[2]
        beat = await self._beat_of(by)
        if beat is None:
            holder.by, holder.lost = by, True
            return
        if holder.taken and beat.still_s is not None and request.kind in GENERATIONS:
            silent_s = min(silent_s, beat.still_s)
        if silent_s > self._stall_s and request.kind not in WRITING:
            holder.by, holder.lost = by, await self._is_another_able(by)

    async def _reader_of(self, stream: str, entry: str, holder: _Holder) -> str | None:
        """The worker that a request has been sent to and that has not said so."""
        try:
            found: Any = await self._client.xpending_range(stream, wire.GROUP, entry, entry, 1)
        except ResponseError as error:
            if not str(error).startswith("NOGROUP"):
                raise
            found = []
        if found:
            holder.missing = 0
            return str(found[0]["consumer"])
        there: Any = await self._client.xrange(stream, entry, entry)
        holder.missing = 0 if there else holder.missing + 1
        # a worker that has just taken it says so before the next look
        holder.lost = holder.missing > 1
        return None

    async def _beat_of(self, instance: str) -> wire.WorkerBeat | None:
        """A worker's last heartbeat, None if it is dead.

        All requests that wait share what was heard, for `FRESH_S`; that a worker is not among
        those that live is never taken from what was heard before the question.  Nobody waits
        longer than for one answer: of a server that hangs each of the others would be asked, too.
        """
        asked_at = time.monotonic()
        async with asyncio.timeout(ANSWER_S), self._hearing:
            moment = time.monotonic()
            known = instance in self._heard and moment - self._heard_at < FRESH_S
            if not known and self._heard_at < asked_at:
                self._heard = {one.instance: one for one in await self.workers()}
                self._heard_at = moment
            return self._heard.get(instance)

    async def _is_another_able(self, than: str | None) -> bool:
        """Whether another worker than this one could answer what only reads."""
        return any(one.instance != than and is_able(one) for one in await self.workers())

    @staticmethod
    def _is_for_another(request: WorkerRequest, reply: WorkerReply, begun: bool) -> bool:
        """Whether a reply is an error that the next worker need not have.

        Once tokens have come there is no next one: then the error itself says more, unless it is
        but that the worker stops.
        """
        if reply.event != "error" or request.kind in WRITING:
            return False
        code = reply.data.get("code")
        return code == STOPPING if begun else code in ELSEWHERE

    async def read(self, key: str, last_id: str, wait: int) -> Entries:
        """Entries of a stream after one, for which it waits so many milliseconds."""
        async with asyncio.timeout(wait / 1000 + ANSWER_S):
            reply: Any = await self._client.xread({key: last_id}, count=100, block=block_ms(wait))
        return list(reply[0][1]) if reply else []


class _Holder:
    """Who has a request, as far as is known: ``taken`` if that one has said so itself.

    ``missing``: how many looks have found it nowhere.  ``lost``: it will not be answered, unless
    the answer was on its way.
    """

    def __init__(self) -> None:
        self.by: str | None = None
        self.taken = self.lost = False
        self.missing = 0


def _weight(name: str, instance: str) -> bytes:
    """The worker with the largest gets a version, so most keep theirs when one comes or goes."""
    return blake2b(f"{name} {instance}".encode(), digest_size=8).digest()
