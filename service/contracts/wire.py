"""Key names, and the format of jobs and events in Redis."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel

from jeep_core.spec.finite import json_text
from service.contracts.jobs import TERMINAL, Job, JobStatus, Lane, Progress
from service.contracts.schemas.worker import Fetching, Role, WorkerState

GROUP = "worker"
CONSUMER = "worker"
"""The writer's in its lanes of jobs: fixed, so that a new writer finds what a dead one had taken.

A follower's is its ``instance``, as is everybody's where requests are taken.
"""

FINISHED_TTL_S = 600
"""An ended job's state and events; its record in the store stays."""

Taker = Literal["writer", "any"]
"""Who takes a job: the writer alone, or whichever worker is free."""

REPLY_TTL_S = 60
GONE_TTL_S = 120
MAILBOX_TTL_S = 60
FOLLOWERS_KEPT_S = 60
"""How long the list of followers names one that was not heard of."""
EVENTS_KEPT = 2000
REQUESTS_KEPT = 10_000


class Keys:
    """The keys of one store: several stores can share a server.

    ``jobs`` and ``reads``: streams of job ids in the order of submission, one for each lane;
    ``shared``: those of the read lane that followers may take as well;
    ``lease``: ``<fence> <owner>`` of the
    worker that may write; ``fence``: the highest fence ever given; ``requests``: stream of
    requests that the writer alone answers, as they change something; ``asks``: of those that any
    worker answers; ``worker``: heartbeat of the writer, which expires with it, as
    do its ``metrics``; ``followers``: their instances, by the time of their last heartbeat;
    ``filled``: the run of the server that has received all unfinished jobs.
    """

    def __init__(self, store_id: str) -> None:
        self._prefix = f"jeep:{store_id}"
        self.jobs = f"{self._prefix}:jobs"
        self.reads = f"{self._prefix}:reads"
        self.shared = f"{self._prefix}:shared"
        self.lease = f"{self._prefix}:lease"
        self.fence = f"{self._prefix}:fence"
        self.requests = f"{self._prefix}:requests"
        self.asks = f"{self._prefix}:asks"
        self.followers = f"{self._prefix}:followers"
        self.worker = f"{self._prefix}:worker"
        self.metrics = f"{self._prefix}:metrics"
        self.filled = f"{self._prefix}:filled"

    def lane(self, lane: Lane) -> tuple[str, ...]:
        """Streams of a lane's jobs; the last one of the read lane is shared with followers."""
        return tuple(self.takers(lane).values())

    def takers(self, lane: Lane) -> dict[Taker, str]:
        """Streams of a lane's jobs, by who takes jobs from them."""
        if lane is Lane.WRITE:
            return {"writer": self.jobs}
        return {"writer": self.reads, "any": self.shared}

    def stream(self, job: Job) -> str:
        """The stream that a job waits in."""
        if job.kind.lane is Lane.WRITE:
            return self.jobs
        return self.shared if job.shared else self.reads

    def follower(self, instance: str) -> str:
        """Heartbeat of a follower, which expires with it."""
        return f"{self._prefix}:follower:{instance}"

    def follower_metrics(self, instance: str) -> str:
        """A follower's page of metrics."""
        return f"{self._prefix}:follower-metrics:{instance}"

    def mailbox(self, instance: str) -> str:
        """Stream of requests for one worker: it has the version in memory."""
        return f"{self._prefix}:asks:{instance}"

    def job(self, job_id: str) -> str:
        """Hash of a job's live state."""
        return f"{self._prefix}:job:{job_id}"

    def events(self, job_id: str) -> str:
        """Stream of a job's events."""
        return f"{self._prefix}:events:{job_id}"

    def reply(self, request_id: str) -> str:
        """Stream of the answers to a request."""
        return f"{self._prefix}:reply:{request_id}"

    def bucket(self, name: str) -> str:
        """The remaining requests of a caller."""
        return f"{self._prefix}:bucket:{name}"

    def gone(self, request_id: str) -> str:
        """Set when nobody waits for the answer any more."""
        return f"{self._prefix}:gone:{request_id}"


@dataclass(frozen=True)
class JobEvent:
    """An entry of a job's event stream; ``name`` is ``status`` or ``progress``."""

    id: str
    name: str
    data: dict[str, Any]

    @property
    def is_last(self) -> bool:
        """Whether this is the last event."""
        return self.name == "status" and self.data.get("status") in TERMINAL


class LiveJob(BaseModel):
    """The state in Redis of a job that has not ended, or ended at most `FINISHED_TTL_S` ago."""

    status: JobStatus
    attempt: int = 0
    started_at: datetime | None = None
    base_version: str | None = None
    progress: Progress = Progress()

    def over(self, journaled: Job) -> Job:
        """The store's record brought up to date; a job that has ended there stays as it is."""
        if journaled.status in TERMINAL:
            return journaled
        live = {name: getattr(self, name) for name in type(self).model_fields}
        return journaled.model_copy(update=live)


class WorkerBeat(BaseModel):
    """The heartbeat: ``instance`` differs between two lives of a worker.

    ``versions`` are in memory, ``damaged`` could not be loaded.  ``head`` is the version that it
    has followed head to, ``load`` the number of requests that it holds, ``job`` the one of the read
    lane that it works on.  ``takes``: it takes requests from the stream that all share; ``jobs``:
    it takes jobs that are shared.  ``state`` is ``ready``, ``draining`` (it has been told to stop)
    or ``stuck`` (what it decodes does not go on).  ``still_s``: how long none of the generations
    that it holds has gone on; None from a release that tells each of them so.  Whoever has waited
    longer for one of them without a word still waits for something.
    ``device``: where its model lies.  ``fetching``: of a follower that does not share the store's
    disk.  ``sent_at`` is by the clock of the queue's server, as those of two hosts differ;
    ``age_s`` is how long ago that is, for whoever has read it.
    """

    instance: str
    pid: int
    model: str
    started_at: datetime
    versions: list[str] = []
    damaged: list[str] = []
    role: Role = "writer"
    host: str = ""
    release: str = ""
    device: str = ""
    head: str | None = None
    load: int = 0
    job: str | None = None
    takes: bool = True
    jobs: bool = True
    state: WorkerState = "ready"
    still_s: float | None = None
    fetching: Fetching | None = None
    sent_at: datetime | None = None
    age_s: float | None = None


@dataclass(frozen=True)
class Waiting:
    """The number of jobs that wait in a lane, and how long the first has waited."""

    jobs: int
    oldest_seconds: float


def parse_live(fields: Mapping[Any, Any]) -> LiveJob | None:
    """Read a job hash; None if it is empty."""
    if "status" not in fields:
        return None
    progress = fields.get("progress")
    return LiveJob(
        status=JobStatus(fields["status"]),
        attempt=int(fields.get("attempt", 0)),
        started_at=datetime.fromisoformat(fields["started_at"]) if "started_at" in fields else None,
        base_version=fields.get("base_version"),
        progress=Progress.model_validate_json(progress) if progress else Progress(),
    )


def parse_event(entry: tuple[str, Mapping[str, str]]) -> JobEvent:
    """Read an entry of an event stream."""
    entry_id, fields = entry
    return JobEvent(entry_id, fields["event"], json.loads(fields["data"]))


def status_event(job: Job) -> str:
    """Data of a ``status`` event: the job's status, and the plain values of its result."""
    plain = (str, int, float, bool, type(None))
    result = {k: v for k, v in (job.result or {}).items() if isinstance(v, plain)}
    return json_text(
        {
            "job_id": job.id,
            "status": job.status,
            "attempt": job.attempt,
            "base_version": job.base_version,
            "result": result if job.result is not None else None,
            "error": job.error.model_dump() if job.error else None,
        },
        "a status event",
    )
