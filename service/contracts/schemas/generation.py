"""Generation: requests and answers."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from jeep_core.text.joining import Join
from service.contracts.jobs import JobError
from service.contracts.schemas.base import MessageIn, Request


class GenerateRequest(Request):
    """``POST /generate``: prompts, or a chat, answered by one or several versions."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"prompt": "Lyon is a city in the country of", "version": ["base", "head"]}
            ]
        }
    )

    prompt: str | None = None
    prompts: list[str] | None = None
    messages: list[MessageIn] | None = Field(
        None,
        min_length=1,
        description="A chat to answer, for models with a chat template.",
    )
    version: str | list[str] = "head"
    min_version: str | None = Field(
        None,
        description="Answer from this version, or one that head was moved to after it.",
    )
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
        default_factory=list, description="Continuations to score after every prompt."
    )
    join: Join = Field(
        "auto",
        description="How candidates follow prompts: with a blank, with nothing, or as texts say.",
    )
    stream: bool = Field(False, description="Server-sent events; one prompt, one version.")
    deterministic: bool = Field(False, description="Computed alone, not in a batch.")

    @model_validator(mode="after")
    def _one_form(self) -> GenerateRequest:
        forms = (self.prompt, self.prompts, self.messages)
        if sum(form is not None for form in forms) != 1:
            raise ValueError("give either prompt or prompts, or messages")
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
    """``log_probability`` is the sum over the candidate's tokens.

    ``join``: what was put before it, a blank or nothing.
    """

    text: str
    join: Literal["space", "none"] = "space"
    tokens: int
    log_probability: float
    probability: float = Field(description="Geometric mean per token.")


class Generation(BaseModel):
    """One prompt answered by one version.

    With ``finish_reason`` ``error`` this answer alone failed: ``error`` says why, and any text,
    tokens and candidates are incomplete.
    """

    version: str
    prompt: str
    text: str
    tokens: list[GeneratedToken]
    finish_reason: Literal["stop", "length", "error"]
    candidates: list[CandidateScore] = Field(default_factory=list)
    error: JobError | None = None


class GenerateResult(BaseModel):
    """Answers in the order prompts × versions, the versions of one prompt together."""

    results: list[Generation]
