"""Jobs: states, identifiers, the record that travels between api, queue, store and worker."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from ulid import ULID

from service.contracts.kinds import JobKind, Lane

__all__ = [
    "TERMINAL",
    "Job",
    "JobError",
    "JobKind",
    "JobStatus",
    "Lane",
    "Progress",
    "new_id",
    "now",
]


class JobStatus(StrEnum):
    """The status of a job."""

    QUEUED = "queued"
    RUNNING = "running"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


TERMINAL = frozenset({JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED})


class JobError(BaseModel):
    """The reason why a job failed: a stable code, a sentence, and pointers into the request if any.

    An entry of ``errors`` has texts and, for a guard, its limit and figure.
    """

    code: str
    message: str
    errors: list[dict[str, str | float]] = Field(default_factory=list)


class Progress(BaseModel):
    """The progress of a running job; ``eta_seconds`` is None while it is unknown."""

    phase: str = "queued"
    done: int = 0
    total: int = 0
    eta_seconds: float | None = None


class Job(BaseModel):
    """One job.  ``payload`` is the validated request of its kind, ``result`` its outcome,
    ``request_id`` and ``traceparent`` are those of the request that made it.
    """

    model_config = ConfigDict(validate_assignment=True)

    id: str
    kind: JobKind
    status: JobStatus = JobStatus.QUEUED
    payload: dict[str, Any]
    request_id: str | None = None
    traceparent: str | None = None
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    attempt: int = 0
    base_version: str | None = None
    progress: Progress = Field(default_factory=Progress)
    result: dict[str, Any] | None = None
    error: JobError | None = None

    @property
    def shared(self) -> bool:
        """Whether a follower may do it."""
        return self.kind.lane is Lane.READ and self.kind.spec.shared(self.payload)


class _Rising:
    """ULIDs that increase as long as the process lives, even if the clock is set back, because the
    journal is read in the order of its ids.
    """

    def __init__(self) -> None:
        self._lock, self._last = threading.Lock(), 0

    def next(self) -> ULID:
        with self._lock:
            self._last = max(int(ULID()), self._last + 1)
            return ULID.from_int(self._last)


_RISING = _Rising()


def new_id(prefix: str) -> str:
    """``job_01J…``: a prefix and a ULID, sortable by time."""
    return f"{prefix}_{_RISING.next()}"


def now() -> datetime:
    """The current time in UTC."""
    return datetime.now(UTC)
