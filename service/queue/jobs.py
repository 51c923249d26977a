"""The jobs of a lane, seen from the worker: strictly in order, one at a time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from redis import Redis
from redis.exceptions import RedisError, ResponseError

from service.contracts import wire
from service.contracts.jobs import TERMINAL, Job, JobStatus, Lane, Progress, now
from service.queue import scripts
from service.queue.connection import block_ms
from service.queue.errors import JobGone, LeaseLost, translating

Entry = tuple[str, str, dict[str, str] | None]
"""Stream, id and fields of an entry."""
ORPHANED_MS = 1000
"""How long a job must have been a dead worker's before another takes it: one of them is first."""
TAKEN_SEEN = 64
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class QueuedJob:
    """A job whose turn it is.  ``job.attempt`` counts how often it was begun before."""

    job: Job
    entry: str
    stream: str


@translating
class JobQueue:
    """The jobs of one lane in Redis.

    One fixed consumer: jobs that a dead worker had taken come first.  Jobs of any lane can be
    submitted.

    The read lane has two streams.  Of the second one followers take jobs, too, with a
    ``consumer`` of their own, and the first is not theirs.  ``members`` gives the consumers that
    live: what another one had taken is taken over.  ``shares``: whether this worker takes new
    jobs of that stream now.
    """

    def __init__(
        self,
        client: Redis,
        keys: wire.Keys,
        lane: Lane = Lane.WRITE,
        consumer: str = wire.CONSUMER,
        members: Callable[[], Collection[str]] | None = None,
        shares: Callable[[], bool] = lambda: True,
    ) -> None:
        self._client, self._keys, self._consumer = client, keys, consumer
        own, *shared = keys.lane(lane)
        self._streams = [own, *shared] if consumer == wire.CONSUMER else shared
        self._members, self._shares = members, shares
        self._nonces: dict[str, str] = {}
        self._submit = client.register_script(scripts.SUBMIT)
        self._begin = client.register_script(scripts.BEGIN)
        self._unbegin = client.register_script(scripts.UNBEGIN)
        self._progress = client.register_script(scripts.PROGRESS)
        self._finish = client.register_script(scripts.FINISH)

    def submit(self, job: Job) -> bool:
        """Append a job; False (and nothing happens) if Redis knows its id."""
        return bool(_run(self._submit, scripts.submit(self._keys, job)))

    def requeue_missing(self, jobs: Iterable[Job]) -> list[str]:
        """Submit, in this order, the jobs that Redis does not know; return their ids."""
        return [job.id for job in jobs if self.submit(job)]

    def next(self, wait_ms: float) -> QueuedJob | None:
        """The job whose turn it is, None if there is none within ``wait_ms``.

        Calling it again before :meth:`finish` gives the same job again.
        """
        while True:
            found = self._interrupted() or self._orphaned() or self._new(block_ms(wait_ms))
            if found is None:
                return None
            stream, entry, fields = found
            job = self._load(fields["id"]) if fields else None
            if job is not None:
                return QueuedJob(job, entry, stream)
            self._discard(stream, entry)

    def drop(self, queued: QueuedJob) -> None:
        """Forget a job that cannot be worked on."""
        self._client.delete(self._keys.job(queued.job.id))
        self._discard(queued.stream, queued.entry)

    def begin(self, job: Job, fence: int | None) -> Job:
        """Mark a job as running; the copy has status, attempt and ``started_at`` set.

        Its status is ``cancelling`` if that was asked for before.  Raises :class:`LeaseLost`,
        or :class:`JobGone` if it has ended meanwhile.
        """
        running = job.model_copy(update={"status": JobStatus.RUNNING, "started_at": now()})
        nonce = self._nonces[job.id] = uuid4().hex
        attempt = _run(self._begin, scripts.begin(self._keys, running, fence, nonce))
        if attempt == -1:
            raise LeaseLost(f"fence {fence} is stale")
        if attempt == -2:
            raise JobGone(f"{job.id} is not there to begin")
        cancelled = self.cancel_requested(job.id)
        status = JobStatus.CANCELLING if cancelled else JobStatus.RUNNING
        return running.model_copy(update={"attempt": attempt, "status": status})

    def nonce(self, job_id: str) -> str:
        """The mark of this attempt of a job that was begun."""
        return self._nonces[job_id]

    def give_back(self, job: Job, fence: int | None) -> None:
        """Undo :meth:`begin`: the job is queued as before, this attempt does not count."""
        _run(self._unbegin, scripts.unbegin(self._keys, job, fence, self._nonces.pop(job.id, "")))

    def finish(self, job: Job, fence: int | None) -> None:
        """End a job: status, event and acknowledgement in one step.

        ``job.status`` must be terminal and saved in the store before.  Raises
        :class:`LeaseLost`; the job then stays with whoever holds the lease.
        """
        if job.status not in TERMINAL:
            raise ValueError(f"{job.id} cannot finish as {job.status}")
        if _run(self._finish, scripts.finish(self._keys, job, fence)) == -1:
            raise LeaseLost(f"fence {fence} is stale")
        self._nonces.pop(job.id, None)

    def progress(self, job_id: str, progress: Progress) -> None:
        """Publish a job's progress; nothing happens if Redis does not know the job."""
        _run(self._progress, scripts.progress(self._keys, job_id, progress))

    def cancel_requested(self, job_id: str) -> bool:
        """Whether the api has asked to cancel this job."""
        return bool(self._client.hexists(self._keys.job(job_id), "cancel"))

    def leave(self) -> None:
        """Forget a follower's consumer, unless it has a job, which another worker takes over."""
        with suppress(RedisError):
            for stream in self._streams:
                if not self._client.xpending_range(stream, wire.GROUP, "-", "+", 1, self._consumer):
                    self._client.xgroup_delconsumer(stream, wire.GROUP, self._consumer)

    def _load(self, job_id: str) -> Job | None:
        """The job as submitted with its present status; None if it has ended or is lost.

        What cannot be read, of another release perhaps, is forgotten: it would end every worker
        whose turn it is.  The store has the job, and whoever can read it there queues it again.
        """
        fields = self._client.hgetall(self._keys.job(job_id))
        try:
            live = wire.parse_live(fields)
            if live is None or live.status in TERMINAL or "job" not in fields:
                return None
            return live.over(Job.model_validate_json(fields["job"]))
        except ValueError as error:
            _log.error("%s cannot be read in the queue, and is dropped from it: %s", job_id, error)
            self._client.delete(self._keys.job(job_id))
            return None

    def _interrupted(self) -> Entry | None:
        """The oldest entry that this consumer had taken and has not finished."""
        return min(self._read(self._streams, "0", None), key=_age, default=None)

    def _orphaned(self) -> Entry | None:
        """The oldest shared entry that a dead worker had taken; it is this worker's now."""
        shared = self._keys.shared
        if self._members is None or shared not in self._streams or not self._shares():
            return None
        taken = self._pending(shared)
        alive = {*self._members(), self._consumer} if taken else set()
        for one in taken:
            if one["consumer"] in alive:
                continue
            mine: Any = self._client.xclaim(
                shared, wire.GROUP, self._consumer, ORPHANED_MS, [one["message_id"]]
            )
            if mine:
                return shared, *mine[0]
        return None

    def _new(self, block: int | None) -> Entry | None:
        """An entry that nobody has taken; those of the first stream come first."""
        shares = self._shares()
        streams = [one for one in self._streams if shares or one != self._keys.shared]
        for stream in streams:
            if found := self._read([stream], ">", None):
                return found[0]
        if block is not None:
            if not streams:
                time.sleep(block / 1000)
                return None
            return min(self._read(streams, ">", block), key=_age, default=None)
        return None

    def _pending(self, stream: str) -> list[dict[str, Any]]:
        """The oldest entries of a stream that somebody has taken and not finished."""
        try:
            found: Any = self._client.xpending_range(stream, wire.GROUP, "-", "+", TAKEN_SEEN)
        except ResponseError as error:
            if not str(error).startswith("NOGROUP"):  # the server was emptied a moment ago
                raise
            return []
        return list(found)

    def _read(self, streams: Sequence[str], start: str, block: int | None) -> list[Entry]:
        """At most one entry of each stream."""
        try:
            reply: Any = self._client.xreadgroup(
                wire.GROUP, self._consumer, dict.fromkeys(streams, start), count=1, block=block
            )
        except ResponseError as error:
            if not str(error).startswith("NOGROUP"):
                raise
            for stream in self._streams:
                create_group(self._client, stream)
            return self._read(streams, start, block)
        return [(stream, *entry) for stream, entries in reply or () for entry in entries]

    def _discard(self, stream: str, entry: str) -> None:
        with self._client.pipeline(transaction=True) as pipe:
            pipe.xack(stream, wire.GROUP, entry)
            pipe.xdel(stream, entry)
            pipe.execute()


def _age(entry: Entry) -> tuple[int, ...]:
    """The parts of an entry's id, a time and a number, which rise."""
    return tuple(int(part) for part in entry[1].split("-"))


def create_group(client: Redis, stream: str) -> None:
    """Create the workers' group from the stream's beginning unless it is there."""
    try:
        client.xgroup_create(stream, wire.GROUP, id="0", mkstream=True)
    except ResponseError as error:
        if not str(error).startswith("BUSYGROUP"):
            raise


def _run(script: Any, call: scripts.Call) -> Any:
    keys, args = call
    return script(keys=keys, args=args)
