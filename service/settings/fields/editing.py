"""The inputs of edits and measurements, and their memory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings


class EditingFields(BaseSettings):
    """Texts, presets, second moments and bounds on memory."""

    corpus: Path | None = Field(
        default=None, description="Text for second moments; default: one that ships."
    )
    presets: Path | None = Field(
        default=None, description="Folder of own presets, as jeep tune writes them."
    )
    llama_cpp: Path | None = Field(
        default=None,
        description="Folder of llama.cpp for exports as GGUF; default: the search path.",
    )
    relations: Path | None = Field(default=None, description="JSON: relation name → template.")
    moment_samples: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="Tokens for second moments; default: 10 per key dimension, 4 of what ships.",
    )
    moments: Annotated[str, Field(pattern=r"^\w[\w.-]*$")] | None = Field(
        default=None, description="Imported second moments to use instead of a corpus."
    )
    perplexity_text: Path | None = Field(
        default=None,
        description="Text, one document a line, for perplexities, drift and guards of both; "
        "default: that of the bundled models, for drift also one that ships.",
    )
    perplexity_tokens: Annotated[int, Field(ge=2)] = Field(
        default=4096, description="How much of that text is used."
    )
    lm_eval_tasks: Path | None = Field(
        default=None,
        description="Folder of own task files of lm-eval with their data; its !functions are run.",
    )
    check_earlier: Annotated[int, Field(ge=0)] = Field(
        default=8, description="Facts of earlier edits that are asked again after each edit."
    )
    factor_memory_mb: Annotated[int, Field(ge=1)] = Field(
        default=8192, description="Memory for second moments and their factors."
    )
    edit_memory_mb: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="Bound on what value optimisation holds, and on what writing keeps of rows; "
        "default: none.",
    )
