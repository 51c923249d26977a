"""The contrast probe."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Self

from pydantic import BaseModel, Field, model_validator

from service.contracts.jobs import JobError, JobStatus, Progress
from service.contracts.schemas.base import Request
from service.contracts.schemas.edits import FactIn, FactRecord

RECORD_FILE = "probe.json"
MAX_PROMPTS = 10_000


class TableFactIn(Request):
    """A row of a fact table: its words count as factual."""

    subject: str
    relation: str
    object: str


class ProbeRequest(Request):
    """``POST /probes``: a suite, or facts; without either general knowledge that the model has.

    Facts need no ``target_true``: then what the model says is the original answer.
    """

    suite: str | None = None
    facts: list[FactIn] | None = Field(None, min_length=8)
    version: str = "head"
    limit: int = Field(256, ge=8, le=MAX_PROMPTS, description="Prompts drawn at most.")
    seed: int = Field(0, ge=0, lt=2**32, description="Of the draw, donors and noise.")
    quick: bool = Field(
        False,
        description="Only what a proposal rests on, of 64 prompts at most.",
    )
    table: list[TableFactIn] | None = Field(
        None, description="Facts whose words count as factual; default: the bundled ones."
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.suite is not None and self.facts is not None:
            raise ValueError("give a suite or facts, not both")
        return self


class ProbePayload(BaseModel):
    """Payload of a probe job; ``version`` is an id."""

    probe_id: str
    suite: str | None = None
    facts: list[FactRecord] | None = None
    version: str
    limit: int
    seed: int
    quick: bool = False
    table: list[TableFactIn] | None = None


class ProbeResult(BaseModel):
    """Result of a probe job.

    ``low`` and ``high`` are the proposed layers, ``hparams`` those of JEEP for them; all None if
    ``why_no_proposal`` says why, by the rule of this number, as it was when the probe ran; null
    before rules had numbers.  ``files``: the full record (``probe.json``) and the plots.
    ``automatic``: edits whose ``preset`` or ``hparams`` are ``auto``, and those without
    hyper-parameters where the model has no preset of the editor, go by this probe until there is a
    newer one of base.
    """

    probe_id: str
    version: str
    prompts: int
    dropped: dict[str, int]
    low: list[int] | None = None
    high: list[int] | None = None
    hparams: dict[str, Any] | None = None
    why_no_proposal: str | None = None
    rule: int | None = None
    automatic: bool = False
    files: list[str]


class ProposedToday(BaseModel):
    """The proposal of the running version's rule by a probe's figures.

    ``hparams`` are null if ``why_no_proposal`` says why.
    """

    rule: int
    hparams: dict[str, Any] | None = None
    why_no_proposal: str | None = None


class Probe(BaseModel):
    """``GET /probes/{id}``.  ``record`` has all figures, once there are any.

    ``result`` and ``record`` stay as they were made; ``today``: what edits take of the figures now,
    null where they were made under the rule of the running version.
    """

    id: str
    job_id: str
    status: JobStatus
    suite: str | None
    version: str
    limit: int
    seed: int
    quick: bool = False
    created_at: datetime
    progress: Progress
    result: ProbeResult | None = None
    record: dict[str, Any] | None = None
    today: ProposedToday | None = None
    error: JobError | None = None
