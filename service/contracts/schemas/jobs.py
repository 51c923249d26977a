"""Jobs as they are shown."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel

from service.contracts.jobs import JobError, JobKind, JobStatus, Progress
from service.contracts.schemas.reading import Imported


class JobOut(BaseModel):
    """``GET /jobs/{id}``.

    ``resource_id``: the id under which the resource of the kind shows the job (``/edits/{id}``,
    ``/evaluations/{id}``, …), the job's own where there is none.  ``edit_id`` of a revert is the
    edit that it takes back.
    ``imported``: the losses in reading the file of records that the job's data came from.
    """

    id: str
    kind: JobKind
    status: JobStatus
    resource_id: str
    edit_id: str | None = None
    evaluation_id: str | None = None
    request_id: str | None = None
    probe_id: str | None = None
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    attempt: int
    base_version: str | None = None
    progress: Progress
    result: dict[str, Any] | None = None
    error: JobError | None = None
    imported: Imported | None = None
