"""The messages between api and worker, and what a follower on another host is told of a store."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from service.contracts.schemas.versions import Head, Manifest

RequestKind = Literal["generate", "complete", "explain", "rollback", "activate", "restore"]
"""The kinds of request that a worker answers without a job."""
WRITING = ("rollback", "activate", "restore")
"""Those that change the store, so that the writer alone answers them, and never twice."""
GENERATIONS = ("generate", "complete")
"""Those that a version answers, token by token.  Of all that it holds a worker says with one
heartbeat that they go on.
"""
Role = Literal["writer", "follower"]
WorkerState = Literal["ready", "draining", "stuck"]

LONGEST_LINE = 64
"""Versions that are given in one answer."""
LONGEST_WAIT_S = 4.0
"""For a change of a store's state: less than an api that is told to end gives its requests."""


class WorkerRequest(BaseModel):
    """A request of the api that the worker answers immediately, without waiting for a job.

    ``versions`` are resolved ids; ``pinned`` are those among them that were named, not meant by
    ``head``.  ``deadline`` is a Unix time in seconds after which nobody
    waits any more, by the clock of whoever reads it; ``left_s`` is how long that was when the
    request was sent, as clocks of two hosts differ.  ``request_id`` and ``traceparent`` are those
    of the HTTP request.
    """

    id: str
    request_id: str | None = None
    traceparent: str | None = None
    kind: RequestKind
    deadline: float
    versions: list[str] = Field(default_factory=list)
    pinned: list[str] = Field(default_factory=list)
    left_s: float | None = None
    body: dict[str, Any] = Field(default_factory=dict)


class WorkerReply(BaseModel):
    """One entry of a reply stream.  ``token`` entries come before the last one.

    ``taken`` (its ``data`` names the worker's ``instance``) and ``progress`` are for the queue's
    own use: nobody who asks sees them.
    """

    event: Literal["token", "result", "error", "taken", "progress"]
    data: dict[str, Any] = Field(default_factory=dict)


class Restored(BaseModel):
    """The tensors of a version are in the store again."""

    version: str


class WorkerInfo(BaseModel):
    """Model data that the worker publishes (``model/info.json``) for validation by the api.

    ``relations`` maps names to templates; ``presets`` maps editor → preset names, the first
    being the default; ``preset_values`` maps ``editor/preset`` → hyper-parameters.  ``moments``:
    the name of imported second moments, used instead of a text; ``moments_from``: where second
    moments come from, in words; ``perplexity_text``: there is a text that perplexity can be
    measured on.  ``special_tokens``: texts of ``bos_token`` and ``eos_token``, where the model has
    one.  ``lm_eval``: the version of lm-eval that the worker has, None if it has none.
    ``checkpoint_bytes``: size of the model's own files, 0 for a model without any;
    ``checkpoint_bytes_as``: the same with all weights in the type that is the key.
    ``vocabulary``: how many tokens the model has room for, from 0 on; None: not known.
    ``files``: SHA-256 of the files that were published with it, by name.  ``release``: the
    worker's version of this package.  ``measuring``: what the figures of its read jobs depend on
    besides the model, by setting.  ``device``: where the model lies; of several devices its blocks
    with theirs (``0-39@cuda:0,40-79@cuda:1``).
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
    vocabulary: int | None = None
    relations: dict[str, str] = Field(default_factory=dict)
    presets: dict[str, list[str]] = Field(default_factory=dict)
    preset_values: dict[str, dict[str, Any]] = Field(default_factory=dict)
    moments: str | None = None
    moments_from: str = "default corpus"
    perplexity_text: bool = False
    special_tokens: dict[str, str] = Field(default_factory=dict)
    lm_eval: str | None = None
    checkpoint_bytes: int = 0
    checkpoint_bytes_as: dict[str, int] = Field(default_factory=dict)
    files: dict[str, str] = Field(default_factory=dict)
    release: str = ""
    measuring: dict[str, str] = Field(default_factory=dict)
    started_at: datetime


class Fetching(BaseModel):
    """How a follower fares that fetches versions from the api, as it has no share of the disk."""

    away_s: float | None = Field(
        default=None, description="How long the api has not answered it; null: it answers."
    )
    trouble: str | None = Field(
        default=None, description="What it could not fetch when it last tried, and why."
    )
    cached_bytes: int = Field(default=0, description="Size of what it keeps on its own disk.")


class WorkerOut(BaseModel):
    """A worker that was heard of in the last seconds.

    ``head``: the version that it has followed head to; ``behind``: head is another one now.
    ``takes``: it takes its share of generations and explanations; ``jobs``: of evaluations, drifts,
    checks and probes.  ``load``: requests that it holds.
    """

    instance: str
    role: Role
    state: WorkerState
    host: str
    pid: int
    release: str
    started_at: datetime
    heartbeat_age_s: float
    device: str = Field(
        "", description="Where its model lies: cpu, cuda:0, or blocks with their devices."
    )
    head: str | None
    behind: bool
    versions: list[str] = Field(description="In memory, the most recently used one last.")
    takes: bool
    jobs: bool
    load: int
    job: str | None = Field(description="The job of the read lane that it works on.")
    fetching: Fetching | None = Field(
        default=None, description="Of a follower that does not share the store's disk."
    )


class StoreState(BaseModel):
    """The state of a store: which one it is, the model that its writer has published, and head.

    ``format`` is the version of its files.  ``model_hash``, ``info`` and ``head`` are missing
    before a writer has published its model.
    """

    id: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$", description="A folder may be called so.")
    format: int
    model_hash: str | None = None
    info: WorkerInfo | None = None
    head: Head | None = None


class VersionLine(BaseModel):
    """A version and those that it is built on, as they are stored."""

    data: list[Manifest] = Field(description="From the version that was named towards the base.")
