"""Checks: which of the facts that a version is meant to say it says now."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field

from jeep_core.spec.hparams import Contexts
from service.contracts.jobs import JobError, JobStatus, Progress
from service.contracts.schemas.base import MetricProtocol, Request
from service.contracts.schemas.edits import FactRecord
from service.contracts.schemas.effects.earlier import SomeOrAll
from service.contracts.schemas.versions import FactEntry

ANSWERS_FILE, MISSING_FILE = "answers.jsonl", "missing.jsonl"
LISTED = 100
"""Facts that a result writes out, of those that do not hold and of those that were not asked."""


class CheckRequest(Request):
    """``POST /checks``: live facts of a version, all or a sample."""

    version: str = "head"
    facts: SomeOrAll = Field(
        "all", description="So many of the live facts, drawn by `seed`, or all of them."
    )
    seed: int = Field(0, ge=0, lt=2**32, description="Of the sample.")
    subject: str | None = Field(
        None, min_length=1, description="Only facts about it, compared as by `GET /facts`."
    )
    edit_id: str | None = Field(None, description="Only facts of this batch.")


class CheckPayload(BaseModel):
    """Payload of a check job; ``version`` is an id."""

    check_id: str
    version: str
    facts: SomeOrAll
    seed: int
    subject: str | None = None
    edit_id: str | None = None


class CheckAnswers(BaseModel):
    """A line of the file of answers: the facts that one ``version`` taught, by their indices."""

    version: str
    held: list[int] = Field(default_factory=list)
    missing: list[int] = Field(default_factory=list)


class CheckedFact(BaseModel):
    """Fact ``index`` of the batch of ``version``, and the ways in which it was to be asked."""

    version: str
    index: int
    prompt: str
    target_new: str
    contexts: Contexts


class MissingFact(CheckedFact):
    """A fact that does not hold: ``answer`` is what the version writes instead.

    Where a fact is asked plainly and in a chat it is the plain answer, which may be right.
    """

    answer: str


class UnaskedFact(CheckedFact):
    """A fact that could not be asked, with the code and the sentence of the reason."""

    code: str
    why: str


class CheckResult(BaseModel):
    """Result of a check job.

    ``live``: the live facts of the version that the request chooses from; ``asked`` of them, all or
    a sample drawn by ``seed``, of which ``held`` were said, ``missing`` were not, and ``unasked``
    could not be asked.  ``missing_facts`` and ``unasked_facts`` are the first 100 of these.
    """

    check_id: str
    version: str
    live: int
    asked: int
    held: int
    missing: int
    unasked: int
    seed: int
    missing_facts: list[MissingFact] = Field(default_factory=list)
    unasked_facts: list[UnaskedFact] = Field(default_factory=list)
    protocol: MetricProtocol
    seconds: float


class CheckSummary(BaseModel):
    """A check in ``GET /checks``: without the facts that do not hold."""

    id: str
    job_id: str
    status: JobStatus
    created_at: datetime
    version: str
    asked: int | None = None
    missing: int | None = None


class Check(BaseModel):
    """``GET /checks/{id}``."""

    id: str
    job_id: str
    status: JobStatus
    version: str
    facts: SomeOrAll
    seed: int
    subject: str | None = None
    edit_id: str | None = None
    created_at: datetime
    progress: Progress
    result: CheckResult | None = None
    error: JobError | None = None


SENT = ("subject", "target_new", "target_true", "join", "paraphrase_prompts",
        "neighborhood_prompts")  # fmt: skip
"""Fields of a fact that say the same in a request; its question is in another one."""


def as_sent(fact: FactEntry | FactRecord) -> dict[str, Any]:
    """A fact that was edited, as it would be sent to be edited again."""
    names = {*SENT, "prompt" if fact.messages is None else "messages"}
    return fact.model_dump(mode="json", include=names, exclude_none=True)
