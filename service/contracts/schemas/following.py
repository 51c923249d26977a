"""For followers that do not share the store's disk: what the api tells them, and their state."""

from __future__ import annotations

from pydantic import BaseModel, Field

from service.contracts.schemas.versions import Head, Manifest
from service.contracts.schemas.worker import WorkerInfo

LONGEST_LINE = 64
"""Versions that are given in one answer."""
LONGEST_WAIT_S = 4.0
"""For a change of a store's state: less than an api that is told to end gives its requests."""


class StoreState(BaseModel):
    """The state of a store: which one it is, the model that its writer has published, and head.

    ``format`` is the version of its files.  ``model_hash``, ``info`` and ``head`` are missing
    before a writer has published its model.
    """

    id: str
    format: int
    model_hash: str | None = None
    info: WorkerInfo | None = None
    head: Head | None = None


class VersionLine(BaseModel):
    """A version and those that it is built on, as they are stored."""

    data: list[Manifest] = Field(description="From the version that was named towards the base.")
