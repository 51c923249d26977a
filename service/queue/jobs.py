"""The jobs of a lane, seen from the worker: strictly in order, one at a time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from redis import Redis
from redis.exceptions import ResponseError

from service.contracts import wire
from service.contracts.jobs import TERMINAL, Job, JobStatus, Lane, Progress, now
from service.queue import scripts
from service.queue.connection import block_ms
from service.queue.errors import JobGone, LeaseLost, translating


@dataclass(frozen=True)
class QueuedJob:
    """A job whose turn it is.  ``job.attempt`` counts how often it was begun before."""

    job: Job
    entry: str


@translating
class JobQueue:
    """The jobs of one lane in Redis.

    One fixed consumer: jobs that a dead worker had taken come first.  Jobs of any lane can be
    submitted.
    """

    def __init__(self, client: Redis, keys: wire.Keys, lane: Lane = Lane.WRITE) -> None:
        self._client, self._keys = client, keys
        self._stream = keys.lane(lane)
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
            entries = self._read("0", None) or self._read(">", block_ms(wait_ms))
            if not entries:
                return None
            entry, fields = entries[0]
            job = self._load(fields["id"]) if fields else None
            if job is not None:
                return QueuedJob(job, entry)
            self._discard(entry)

    def drop(self, queued: QueuedJob) -> None:
        """Forget a job that cannot be worked on."""
        self._client.delete(self._keys.job(queued.job.id))
        self._discard(queued.entry)

    def begin(self, job: Job, fence: int) -> Job:
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

    def give_back(self, job: Job, fence: int) -> None:
        """Undo :meth:`begin`: the job is queued as before, this attempt does not count."""
        _run(self._unbegin, scripts.unbegin(self._keys, job, fence, self._nonces.pop(job.id, "")))

    def finish(self, job: Job, fence: int) -> None:
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

    def _load(self, job_id: str) -> Job | None:
        """The job as submitted with its present status; None if it has ended or is lost."""
        fields = self._client.hgetall(self._keys.job(job_id))
        live = wire.parse_live(fields)
        if live is None or live.status in TERMINAL or "job" not in fields:
            return None
        return live.over(Job.model_validate_json(fields["job"]))

    def _read(self, start: str, block: int | None) -> list[tuple[str, dict[str, str] | None]]:
        try:
            reply: Any = self._client.xreadgroup(
                wire.GROUP, wire.CONSUMER, {self._stream: start}, count=1, block=block
            )
        except ResponseError as error:
            if not str(error).startswith("NOGROUP"):
                raise
            create_group(self._client, self._stream)
            return self._read(start, block)
        return list(reply[0][1]) if reply else []

    def _discard(self, entry: str) -> None:
        with self._client.pipeline(transaction=True) as pipe:
            pipe.xack(self._stream, wire.GROUP, entry)
            pipe.xdel(self._stream, entry)
            pipe.execute()


def create_group(client: Redis, stream: str) -> None:
    """Create the worker's group from the stream's beginning unless it is there."""
    try:
        client.xgroup_create(stream, wire.GROUP, id="0", mkstream=True)
    except ResponseError as error:
        if not str(error).startswith("BUSYGROUP"):
            raise


def _run(script: Any, call: scripts.Call) -> Any:
    keys, args = call
    return script(keys=keys, args=args)
