"""Requests and answers of the HTTP api, and what api and worker say to each other."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from service.jobs import JobError, JobKind, JobStatus, Progress

Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9._-]{0,63}$")]
"""A snapshot name: starts with a letter; ``head``, ``base`` and ``v<number>`` are taken."""


class Request(BaseModel):
    """Base of request bodies: unknown fields are refused, numbers are finite."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


# ---------------------------------------------------------------- edits


class FactIn(Request):
    """One fact: ``subject, relation, object`` or ``subject, prompt, target_new``.

    ``relation`` is the name of a relation in the template table, else a template with one
    ``{}``, else the text that follows the subject.  ``prompt`` has one ``{}`` or contains the
    subject (its last occurrence is meant).
    """

    subject: str
    relation: str | None = None
    object: str | None = None
    prompt: str | None = None
    target_new: str | None = None
    target_true: str | None = None
    paraphrase_prompts: list[str] = Field(default_factory=list)
    neighborhood_prompts: list[str] = Field(default_factory=list)


class EditRequest(Request):
    """``POST /edits``."""

    facts: list[FactIn] = Field(min_length=1)
    editor: str = "jeep"
    preset: str | None = None
    hparams: dict[str, Any] = Field(default_factory=dict)
    snapshot_name: Name | None = None
    parent: str | None = Field(None, description="Fail with 412 unless this version is head.")


class FactRecord(BaseModel):
    """A validated fact as it is stored: ``prompt`` is a template with exactly one ``{}``."""

    subject: str
    prompt: str
    target_new: str
    target_true: str | None = None
    paraphrase_prompts: list[str] = Field(default_factory=list)
    neighborhood_prompts: list[str] = Field(default_factory=list)


class Duplicate(BaseModel):
    """Fact ``index`` of a request says the same as fact ``kept``, which is edited once."""

    index: int
    kept: int


class EditPayload(BaseModel):
    """Payload of an edit job.  ``hparams`` is complete: preset and overrides are merged.

    ``facts[i]`` came as fact ``indices[i]`` of the request; empty: as fact i.
    """

    edit_id: str
    facts: list[FactRecord]
    editor: str
    preset: str | None
    hparams: dict[str, Any]
    snapshot_name: str | None = None
    parent: str | None = None
    indices: list[int] = Field(default_factory=list)
    duplicates: list[Duplicate] = Field(default_factory=list)

    @property
    def sent_as(self) -> list[int]:
        """For every fact its index in the request."""
        return self.indices or list(range(len(self.facts)))


class FactPlan(BaseModel):
    """How a fact will be edited: its tokens and the positions that are optimised."""

    index: int
    subject: str
    prompt: str
    target_new: str
    tokens: list[str]
    subject_last: int
    prediction: int
    target_tokens: list[str]


class EditPlan(BaseModel):
    """Answer of ``POST /edits?dry_run=true``."""

    editor: str
    preset: str | None
    hparams: dict[str, Any]
    facts: list[FactPlan]
    duplicates: list[Duplicate] = Field(default_factory=list)


class Answer(BaseModel):
    """What a version says to a fact's prompt: probabilities are per-token geometric means."""

    p_new: float
    p_true: float | None = None
    text: str
    writes_new: bool = Field(
        False, description="Greedy decoding writes target_new, all of it and as whole words."
    )


class FactOutcome(BaseModel):
    """One fact before and after the edit; ``success``: the model writes ``target_new``.

    ``index`` is the fact's place in the request.
    """

    index: int
    subject: str
    prompt: str
    target_new: str
    target_true: str | None = None
    before: Answer
    after: Answer
    success: bool
    steps: int | None = None
    target_probability: float | None = None


class LayerReport(BaseModel):
    """One written matrix: region, ‖Δ‖/‖W‖ and the residual before and after its update.

    Residuals and condition are null for editors that solve no linear system.
    """

    name: str
    layer: int
    region: str
    relative_norm: float
    residual_before: float | None
    residual_after: float | None
    condition: float | None


class EditResult(BaseModel):
    """Result of an edit job.  ``efficacy`` and ``greedy_success`` are shares of the facts.

    ``peak_memory_mb``: most memory that value optimisation held at once.
    """

    edit_id: str
    version: str
    parent: str
    snapshot_name: str | None = None
    facts: list[FactOutcome]
    efficacy: float
    greedy_success: float
    layers: list[LayerReport]
    seconds: dict[str, float]
    duplicates: list[Duplicate] = Field(default_factory=list)
    warnings: list[str] = Field(default_factory=list)
    peak_memory_mb: float | None = None


class Edit(BaseModel):
    """``GET /edits/{id}``: a submitted batch, with its result once there is one."""

    id: str
    job_id: str
    status: JobStatus
    editor: str
    preset: str | None
    hparams: dict[str, Any]
    facts: list[FactRecord]
    created_at: datetime
    result: EditResult | None = None
    error: JobError | None = None


# ---------------------------------------------------------------- jobs


class JobOut(BaseModel):
    """``GET /jobs/{id}``."""

    id: str
    kind: JobKind
    status: JobStatus
    edit_id: str | None = None
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    attempt: int
    base_version: str | None = None
    progress: Progress
    result: dict[str, Any] | None = None
    error: JobError | None = None


# ---------------------------------------------------------------- versions


class TensorRef(BaseModel):
    """A stored tensor: safetensors dtype name (``F16``), shape, SHA-256 of its raw bytes."""

    name: str
    dtype: str
    shape: list[int]
    sha256: str


class Manifest(BaseModel):
    """A version.  ``tensors`` are all parameters in which it differs from ``base``.

    ``artifacts`` are further stored tensors of this edit (``keys.<region>.<layer>``, factors
    ``u.…``/``v.…``); ``inputs`` names by hash what the edit was computed with (prefixes,
    moments).  ``weights_sha256`` covers every parameter of the model.
    """

    id: str
    parent: str | None = None
    job_id: str | None = None
    edit_id: str | None = None
    editor: str | None = None
    preset: str | None = None
    hparams: dict[str, Any] = Field(default_factory=dict)
    facts: list[FactRecord] = Field(default_factory=list)
    tensors: list[TensorRef] = Field(default_factory=list)
    artifacts: list[TensorRef] = Field(default_factory=list)
    inputs: dict[str, str] = Field(default_factory=dict)
    weights_sha256: str
    created_at: datetime
    result: EditResult | None = None


class Snapshot(BaseModel):
    """``GET /snapshots/{id}``."""

    id: str
    names: list[str]
    is_head: bool
    parent: str | None
    job_id: str | None
    edit_id: str | None
    editor: str | None
    n_facts: int
    tensors: list[TensorRef]
    weights_sha256: str
    created_at: datetime


class NameSnapshot(Request):
    """``POST /snapshots``: give a version (default head) a name."""

    name: Name
    version: str = "head"


class SnapshotDiff(BaseModel):
    """Facts and tensors in which two versions differ, seen from ``a``."""

    a: str
    b: str
    common_ancestor: str
    edits_removed: list[str]
    edits_added: list[str]
    facts_removed: list[FactRecord]
    facts_added: list[FactRecord]
    tensors_changed: list[str]


class RollbackRequest(Request):
    """Body of ``POST /rollback/{id}``; empty is fine."""

    why: str = Field("", max_length=500)


class RollbackResult(BaseModel):
    """Head has moved and the model serves it."""

    version: str
    previous: str
    weights_sha256: str
    cancelled_jobs: list[str] = Field(default_factory=list)


# ---------------------------------------------------------------- generation


class GenerateRequest(Request):
    """``POST /generate``: one or several prompts, answered by one or several versions."""

    prompt: str | None = None
    prompts: list[str] | None = None
    version: str | list[str] = "head"
    max_new_tokens: int = Field(16, ge=0)
    temperature: float = Field(0.0, ge=0.0, le=10.0, description="0: greedy")
    top_k: int | None = Field(None, ge=1)
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    seed: int | None = Field(None, ge=0, lt=2**63)
    stop: list[str] = Field(default_factory=list, max_length=8)
    top_probabilities: int = Field(
        0, ge=0, le=50, description="Also give the n most probable tokens at every step."
    )
    candidates: list[str] = Field(
        default_factory=list, description="Continuations to score behind every prompt."
    )
    stream: bool = Field(False, description="Server-sent events; one prompt, one version.")
    deterministic: bool = Field(False, description="Computed alone, not in a batch.")

    @model_validator(mode="after")
    def _one_of_prompt_and_prompts(self) -> GenerateRequest:
        if (self.prompt is None) == (self.prompts is None):
            raise ValueError("give either prompt or prompts")
        return self

    @property
    def all_prompts(self) -> list[str]:
        """The prompts, however they were given."""
        return [self.prompt] if self.prompt is not None else list(self.prompts or [])

    @property
    def versions(self) -> list[str]:
        """The versions asked for, however they were given."""
        return [self.version] if isinstance(self.version, str) else list(self.version)


class TokenProbability(BaseModel):
    """A token, its text and its probability."""

    id: int
    text: str
    probability: float


class GeneratedToken(TokenProbability):
    """A generated token; ``top`` are the most probable ones at that step.

    A stream is shown by writing one ``delta`` after the other: ``text`` is the token alone,
    which may be a part of a character or of a stop string.
    """

    delta: str = Field("", description="Text that became certain with this token.")
    top: list[TokenProbability] = Field(default_factory=list)


class CandidateScore(BaseModel):
    """``log_probability`` is the sum over the candidate's tokens."""

    text: str
    tokens: int
    log_probability: float
    probability: float = Field(description="Geometric mean per token.")


class Generation(BaseModel):
    """One prompt answered by one version."""

    version: str
    prompt: str
    text: str
    tokens: list[GeneratedToken]
    finish_reason: Literal["stop", "length"]
    candidates: list[CandidateScore] = Field(default_factory=list)


class GenerateResult(BaseModel):
    """Answers in the order prompts × versions, the versions of one prompt together."""

    results: list[Generation]


class WorkerRequest(BaseModel):
    """A request of the api that the worker answers at once, behind no job.

    ``versions`` are resolved ids.  ``deadline`` is a Unix time in seconds after which nobody
    waits any more.
    """

    id: str
    kind: Literal["generate", "rollback"]
    deadline: float
    versions: list[str] = Field(default_factory=list)
    body: dict[str, Any] = Field(default_factory=dict)


class WorkerReply(BaseModel):
    """One entry of a reply stream.  ``token`` entries come before the last one."""

    event: Literal["token", "result", "error"]
    data: dict[str, Any] = Field(default_factory=dict)


class WorkerInfo(BaseModel):
    """What the worker publishes in the store (``model/info.json``) for the api to validate with.

    ``relations`` maps names to templates; ``presets`` maps editor → preset names, the first
    being the default; ``preset_values`` maps ``editor/preset`` → hyper-parameters.  ``corpus``:
    there is a text that second moments can be taken from, so the model can be edited.
    """

    model: str
    model_hash: str
    family: str
    dtype: str
    device: str
    n_layers: int
    hidden_size: int
    mlp_size: int
    max_positions: int
    relations: dict[str, str] = Field(default_factory=dict)
    presets: dict[str, list[str]] = Field(default_factory=dict)
    preset_values: dict[str, dict[str, Any]] = Field(default_factory=dict)
    corpus: bool = True
    started_at: datetime


class Problem(BaseModel):
    """RFC 9457 problem details."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str
    errors: list[dict[str, str]] = Field(default_factory=list)
    request_id: str
