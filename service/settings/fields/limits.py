"""Limits of requests, of the store, and of what is sent elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings


class LimitFields(BaseSettings):
    """How much is taken and kept; targets and judges."""

    max_facts: Annotated[int, Field(ge=1)] = 10_000
    max_body_bytes: Annotated[int, Field(ge=1024)] = 32 * 2**20
    max_suite_bytes: Annotated[int, Field(ge=1024)] = Field(
        default=512 * 2**20, description="Largest suite that can be uploaded."
    )
    max_text_chars: Annotated[int, Field(ge=1)] = Field(
        default=16_384, description="Characters of one prompt, fact's text or candidate."
    )
    max_queue: Annotated[int, Field(ge=1)] = Field(
        default=1000, description="Jobs that have not ended."
    )
    max_streams: Annotated[int, Field(ge=1)] = Field(
        default=256, description="Event streams open at once."
    )
    keep_versions: Annotated[int, Field(ge=1)] = Field(
        default=20,
        description="Newest versions that keep their tensors; older ones without a name are "
        "rebuilt from their factors when they are needed.",
    )
    keep_exports: Annotated[int, Field(ge=1)] = Field(
        default=10,
        description="Newest exports whose files are kept; those in use are kept beside them.",
    )
    versions_in_memory: Annotated[int, Field(ge=1)] = Field(
        default=4, description="Versions whose edited matrices are held in memory."
    )
    max_store_mb: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Size of the store from which on no job starts; default: none."
    )
    min_free_mb: Annotated[int, Field(ge=0)] = Field(
        default=256, description="Free on the store's disk, else no job starts."
    )
    rate_per_minute: Annotated[float, Field(ge=0)] = Field(
        default=1200.0, description="Requests of one API key; 0: any number."
    )
    rate_burst: Annotated[int, Field(ge=1)] = Field(
        default=200, description="Requests of one API key at once."
    )
    targets_allow: str = Field(
        default="127.0.0.0/8,::1",
        description="Addresses and networks that targets and judges may have, with commas between.",
    )
    targets_secrets: Path | None = Field(
        default=None, description="Folder of files with the API keys of targets; default: none."
    )
    targets_timeout_s: Annotated[float, Field(gt=0)] = Field(
        default=120.0, description="How long a target may take to load a version."
    )
    max_targets: Annotated[int, Field(ge=0)] = Field(
        default=16, description="Targets that may be registered."
    )
    judge_address: Annotated[str, Field(pattern=r"^https?://[!-~]+$")] | None = Field(
        default=None,
        description="OpenAI-compatible server of a judge of free answers, such as "
        "http://127.0.0.1:8001/v1.",
    )
    judge_model: str | None = Field(
        default=None, description="Model that judges where a request names none."
    )
    judge_key: SecretStr | None = Field(
        default=None, exclude=True, description="Key of that server; sent to no other."
    )
    log_prompts: bool = Field(default=False, description="Write prompts and facts into the log.")
    max_prompts: Annotated[int, Field(ge=1)] = 256
    max_prompt_tokens: Annotated[int, Field(ge=1)] = 1024
    max_new_tokens: Annotated[int, Field(ge=1)] = 512
    min_version_wait_s: Annotated[float, Field(ge=0)] = Field(
        default=5.0, description="How long a request waits for its min_version."
    )
    generate_timeout_s: Annotated[float, Field(gt=0)] = 60.0
