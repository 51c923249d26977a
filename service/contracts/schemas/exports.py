"""Versions as files: what is asked for, what was written, and how it was proven."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from service.contracts.jobs import JobError, JobStatus, Progress
from service.contracts.schemas.base import Request

PROOF_FILE = "proof.json"
"""The report of an export: every fact with both answers."""
LOST_SHOWN = 100
"""Lost facts that the result itself names; the report has all of them."""

WeightType = Literal["float32", "bfloat16", "float16"]
GgufKind = Literal["source", "F16", "BF16", "Q8_0", "Q4_K_M"]


class ExportOptions(Request):
    """The choices of every format: the base of the body of `POST /snapshots/{id}/export`."""

    format: str
    include_facts: bool = Field(
        False, description="Also write the edited facts: on the card, and as `facts.jsonl`."
    )


class SafetensorsExport(ExportOptions):
    """One file with the matrices in which the version differs from base."""

    format: Literal["safetensors"]


class PeftExport(ExportOptions):
    """An adapter (LoRA).  Without limits it misses nothing but rounding, or is refused."""

    format: Literal["peft"]
    max_rank: int | None = Field(
        None, ge=1, le=65_536, description="No module gets a higher rank, whatever is missed."
    )
    max_error: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="What each module may miss, as a part of the norm of its change.",
    )
    dtype: WeightType = Field("float32", description="Of the adapter's numbers.")


class MergedExport(ExportOptions):
    """A whole model folder."""

    format: Literal["merged"]
    dtype: WeightType | None = Field(
        None, description="Of all weights; default: each as in the base model's files."
    )


class GgufExport(ExportOptions):
    """A GGUF file for llama.cpp, Ollama and the like, asked in llama.cpp."""

    format: Literal["gguf"]
    type: GgufKind | None = Field(
        None,
        description="How matrices are stored. `source`: each as in the GGUF file that the model "
        "came from, which is the default where there is one; else F16.",
    )
    edited: Literal["same", "Q8_0", "F16"] = Field(
        "same", description="How the edited matrices are stored: as the others, or finer."
    )


class ExportPayload(BaseModel):
    """Payload of an export job; ``version`` is an id, ``options`` are those of the format."""

    export_id: str
    version: str
    format: str
    options: dict[str, Any]


class ExportFile(BaseModel):
    """A file of an export: its path there, with ``/`` between parts, its size and hash."""

    path: str
    bytes: int
    sha256: str


class LostFact(BaseModel):
    """An edited fact that the version says and what was written does not.

    ``version`` and ``index``: where it was edited.  ``answer`` is what it says instead.
    """

    version: str
    index: int
    prompt: str
    target_new: str
    answer: str


class Check(BaseModel):
    """A figure that was measured on what was written; ``ok``: it is within ``limit``.

    Without a limit it is only told.
    """

    name: str
    said: str
    value: float
    limit: float | None = None
    ok: bool = True


class Proof(BaseModel):
    """The proof sheet: what was written, asked again.

    ``facts``: live facts of the version, of which ``hold_in_version`` hold there and ``hold`` in
    what was written.  ``lost`` are the first of those that hold in the version alone, ``n_lost``
    counts them, and ``advice`` says how they are kept.  ``not_asked`` says why nothing could be
    asked.  ``ok``: every check is, and no fact is lost.
    """

    facts: int
    hold_in_version: int | None = None
    hold: int | None = None
    n_lost: int = 0
    lost: list[LostFact] = Field(default_factory=list)
    advice: str | None = None
    checks: list[Check] = Field(default_factory=list)
    not_asked: str | None = None
    ok: bool


class AskedFact(BaseModel):
    """A live fact of an exported version, with what the version and what was written answer."""

    version: str
    index: int
    prompt: str
    target_new: str
    in_version: str
    in_written: str
    holds_in_version: bool
    holds: bool


class ProofSheet(Proof):
    """``GET /exports/{id}/proof``: the proof with every fact that was asked."""

    asked: list[AskedFact]


class ExportOrigin(BaseModel):
    """Where an export comes from.

    ``base_sha256`` and ``weights_sha256`` are hashes over all weights of base and version;
    ``licence``: of the base model, as its files say.
    """

    base: str
    base_sha256: str
    licence: str | None
    version: str
    names: list[str]
    weights_sha256: str
    n_facts: int
    editors: list[str]
    made_by: str


class ExportResult(BaseModel):
    """Result of an export job.

    ``details`` are figures of the format: of an adapter its ``rank``, what it misses (``error``)
    and its ``modules``.  ``use`` is a command, or a program, that loads the folder.
    """

    export_id: str
    version: str
    format: str
    origin: ExportOrigin
    files: list[ExportFile]
    bytes: int
    details: dict[str, Any] = Field(default_factory=dict)
    use: str
    proof: Proof


class Export(BaseModel):
    """``GET /exports/{id}``.  ``available``: its files are there to be downloaded.

    They are removed when newer ones exceed JEEP_KEEP_EXPORTS, or by `DELETE`.  ``kept_by``: what
    uses them where they are, so that they stay.
    """

    id: str
    job_id: str
    status: JobStatus
    version: str
    format: str
    options: dict[str, Any]
    available: bool
    kept_by: list[str] = Field(default_factory=list)
    created_at: datetime
    progress: Progress
    result: ExportResult | None = None
    error: JobError | None = None
