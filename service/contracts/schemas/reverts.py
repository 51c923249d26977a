"""Reverts: one batch is taken out of head's history, the later ones are applied again."""

from __future__ import annotations

from pydantic import BaseModel, Field

from service.contracts.schemas.base import Name, Request


class RevertRequest(Request):
    """Body of ``POST /edits/{id}/revert``; empty is fine."""

    parent: str | None = Field(None, description="Fail with 412 unless this version is head.")
    snapshot_name: Name | None = None


class RevertPayload(BaseModel):
    """Payload of a revert job: ``edit_id`` is the batch to remove."""

    edit_id: str
    parent: str | None = None
    snapshot_name: str | None = None


class Reapplied(BaseModel):
    """A later batch: the version it was in and the one it is in now."""

    edit_id: str
    previous_version: str
    version: str
    efficacy: float
    greedy_success: float


class RevertResult(BaseModel):
    """Result of a revert job: head has moved from ``previous`` to ``version``.

    ``warnings``: a batch was computed with other prefixes or second moments than the first time,
    or the version could not be named.
    """

    edit_id: str
    version: str
    previous: str
    weights_sha256: str
    snapshot_name: str | None = None
    reapplied: list[Reapplied]
    warnings: list[str] = Field(default_factory=list)
