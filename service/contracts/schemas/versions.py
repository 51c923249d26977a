"""Versions, their facts and names, and moves of head."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from jeep_core.text.joining import Join
from service.contracts.schemas.base import MessageIn, Name, Request
from service.contracts.schemas.edits import EditResult, FactRecord
from service.contracts.schemas.effects.earlier import MendedFact


class TensorRef(BaseModel):
    """A stored tensor: safetensors dtype name (``F16``), shape, SHA-256 of its raw bytes."""

    name: str
    dtype: str
    shape: list[int]
    sha256: str


class Manifest(BaseModel):
    """A version.  ``tensors`` are all parameters in which it differs from ``base``.

    ``artifacts`` are further stored tensors of this edit (``keys.<region>.<layer>``, factors
    ``u.…``/``v.…``, ``state.…``: what its editor keeps for the next edit); ``inputs`` names by hash
    what the edit was computed with (prefixes, moments).  ``weights_sha256`` covers every parameter
    of the model.  ``staged``: its job was not to move head to it.  ``reapplied_from``: the
    version that held this batch before a revert of an earlier one.  ``mended``: those of ``facts``
    that earlier batches had taught and this one had broken.
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
    staged: bool = False
    reapplied_from: str | None = None
    mended: list[MendedFact] = Field(default_factory=list)


class Move(BaseModel):
    """One line of the reflog: ``previous`` is the version head came from."""

    model_config = ConfigDict(frozen=True)

    when: datetime
    who: str
    previous: str | None
    to: str
    why: str
    job_id: str | None = None


class Head(BaseModel):
    """The committed version, the job that made it head, and the fence of the worker.

    ``move`` is the reflog's last line, so that a reflog cut off by a crash can be completed.
    """

    model_config = ConfigDict(frozen=True)

    version: str
    job_id: str | None
    fence: int
    move: Move


class FactEntry(BaseModel):
    """One fact of a version's line.

    ``version`` is where its batch was written, ``index`` its place in the batch's request, ``text``
    the prompt with the subject filled in.  ``messages``: those that the fact was given as;
    ``chat_prompt``: the prompt in the model's chat format, if the fact was edited for that.
    ``live``: no later batch of the line edits the same
    fact; else it is ``superseded``, by the next batch that does.  ``holds``: whether the model said
    it when it was last asked, as the version ``checked_in``: after the edit that made it, or by
    the check ``check_id`` if there is one.
    """

    subject: str
    prompt: str
    text: str
    target_new: str
    target_true: str | None = None
    join: Join = "auto"
    messages: list[MessageIn] | None = None
    chat_prompt: str | None = None
    edit_id: str
    version: str
    index: int
    state: Literal["live", "superseded"]
    superseded_by: str | None = None
    holds: bool | None = None
    checked_in: str | None = None
    check_id: str | None = None
    created_at: datetime


class Snapshot(BaseModel):
    """``GET /snapshots/{id}``.

    ``state``: ``head``; ``committed``: it was head, or is what another one is built on;
    ``staged``: written without moving head, and never activated; ``unused``: its job was
    overtaken by a rollback in the instant between writing it and moving head; ``damaged``: its
    records are lost, ``damage`` says how, and the other fields are empty; ``unreadable``: so, as
    its records cannot be read now, though they may be whole.
    """

    id: str
    names: list[str]
    is_head: bool
    state: Literal["head", "committed", "staged", "unused", "damaged", "unreadable"]
    parent: str | None
    job_id: str | None
    edit_id: str | None
    editor: str | None
    n_facts: int
    tensors: list[TensorRef]
    weights_sha256: str | None = Field(description="Null if the version is damaged or unreadable.")
    created_at: datetime | None = Field(description="Null if the version is damaged or unreadable.")
    damage: str | None = None


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


class ActivateRequest(Request):
    """Body of ``POST /snapshots/{id}/activate``; empty is fine."""

    why: str = Field("", max_length=500)


class Activation(BaseModel):
    """A staged version is head and the model serves it; ``previous`` is its parent."""

    version: str
    previous: str
    weights_sha256: str


class RollbackResult(BaseModel):
    """Head has moved and the model serves it."""

    version: str
    previous: str
    weights_sha256: str
    cancelled_jobs: list[str] = Field(default_factory=list)
