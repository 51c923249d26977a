"""How the worker works: leases, threads, shares of the time, the log."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings


class WorkingFields(BaseSettings):
    """Leases, threads, shares of the time, the log."""

    role: Literal["writer", "follower"] = Field(
        default="writer",
        description="follower: a further worker on the same store and queue, which answers and "
        "measures and never writes.",
    )
    store_url: Annotated[str, Field(pattern=r"^https?://[!-~]+$")] | None = Field(
        default=None,
        description="The api from which a follower without the store's disk fetches versions; "
        "JEEP_STORE is then a folder of its own.",
    )
    store_key: SecretStr | None = Field(
        default=None, exclude=True, description="API key for that, with the scope follow."
    )
    store_cache_mb: Annotated[int, Field(ge=1)] = Field(
        default=20_000,
        description="Size of what such a follower keeps on its disk; versions in use stay.",
    )
    writer_answers: Literal["alone", "always"] = Field(
        default="alone",
        description="Whether the writer answers and measures only while no follower does, or takes "
        "its share.",
    )
    stall_s: Annotated[float, Field(gt=0)] = Field(
        default=30.0,
        description="How long a worker may show no progress with a request before another one is "
        "asked.",
    )
    drain_s: Annotated[float, Field(ge=0)] = Field(
        default=30.0, description="How long a worker that is told to stop goes on answering."
    )
    lease_ms: Annotated[int, Field(ge=100)] = 30_000
    lease_renew_s: Annotated[float, Field(gt=0)] = 5.0
    job_tries: Annotated[int, Field(ge=1)] = 3
    idempotency_hours: Annotated[float, Field(gt=0)] = 24.0
    threads: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="Threads of an edit's matrix products; default: all that cgroups allow.",
    )
    decode_threads: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Threads of decoding; default: 1 for small models."
    )
    edit_share: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.5, description="Share of the time that an edit keeps while others generate."
    )
    read_share: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.2, description="Share of the time that a reading job keeps, likewise."
    )
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "text"] = Field(
        default="text", description="json: one object a line, with request and job ids."
    )
