"""Helpers shared by the tests of store and queue."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from redis import Redis

from service.contracts import wire
from service.contracts.jobs import Job, JobStatus, Lane, now
from service.contracts.schemas import Manifest
from service.queue import JobQueue, scripts
from service.store import Store

MakeJob = Callable[..., Job]
FENCE = 1
KEYS = wire.Keys("store")


def add_version(store: Store, parent: str = "v0", **fields: object) -> str:
    version = store.versions.new_id()
    given = {"id": version, "parent": parent, "weights_sha256": version, "created_at": now()}
    store.versions.write(Manifest.model_validate(given | fields))
    return version


def move(
    store: Store, to: str, *, expected: str, fence: int = 1, job_id: str | None = None
) -> None:
    store.head.move(to, expected=expected, job_id=job_id, fence=fence, who="worker", why="edit")


def take(queue: JobQueue) -> Job:
    queued = queue.next(0)
    assert queued is not None
    return queued.job


def ended(job: Job, status: JobStatus = JobStatus.SUCCEEDED) -> Job:
    return job.model_copy(update={"status": status, "finished_at": now()})


def events(client: Redis, job: Job) -> list[wire.JobEvent]:
    entries: Any = client.xrange(KEYS.events(job.id))
    return [wire.parse_event(entry) for entry in entries]


def live_state(client: Redis, job_id: str) -> wire.LiveJob | None:
    return wire.parse_live(client.hgetall(KEYS.job(job_id)))


def request_cancel(client: Redis, job_id: str, lane: Lane = Lane.WRITE) -> JobStatus | None:
    """Request a cancel as the api does."""
    keys, args = scripts.cancel(KEYS, job_id, KEYS.lane(lane)[0])
    status: Any = client.eval(scripts.CANCEL, len(keys), *keys, *args)
    return JobStatus(status) if status else None
