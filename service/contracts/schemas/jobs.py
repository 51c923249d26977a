"""Jobs as they are shown, and the resources that are jobs as their lists show them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field

from service.contracts.jobs import JobError, JobKind, JobStatus, Progress
from service.contracts.schemas.evaluation import Target
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


class EditSummary(BaseModel):
    """A batch in ``GET /edits``: without its facts and their outcomes."""

    id: str
    job_id: str
    status: JobStatus
    editor: str
    preset: str | None
    n_facts: int
    snapshot_name: str | None
    created_at: datetime
    version: str | None = None
    efficacy: float | None = None
    greedy_success: float | None = None
    error: JobError | None = None


class EvaluationSummary(BaseModel):
    """An evaluation in ``GET /evaluations``: without its result.

    ``figures``: of each target, by its label, the figure ``metric``: ``score`` if there is one,
    else the first; in percent, of lm-eval in its own unit.  Empty until it has ended.
    """

    id: str
    job_id: str
    status: JobStatus
    created_at: datetime
    suite: str
    targets: list[Target]
    editor: str | None
    metric: str | None = None
    figures: dict[str, float] = Field(default_factory=dict)


class ProbeSummary(BaseModel):
    """A probe in ``GET /probes``: without its figures."""

    id: str
    job_id: str
    status: JobStatus
    created_at: datetime
    suite: str | None
    version: str
    low: list[int] | None = None
    high: list[int] | None = None


class ExportSummary(BaseModel):
    """An export in ``GET /exports``: without its files."""

    id: str
    job_id: str
    status: JobStatus
    version: str
    format: str
    available: bool
    bytes: int | None = None
    facts: int | None = None
    hold: int | None = None


class DriftSummary(BaseModel):
    """A comparison in ``GET /drifts``: without its result."""

    id: str
    job_id: str
    status: JobStatus
    version: str
    against: str
