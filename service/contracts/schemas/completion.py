"""Messages between api and worker about completions: prompts and answers as tokens.

The api turns texts into tokens and back, so that a prompt is read in one place, and adds what
OpenAI's interface shows.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class CompletionAsk(BaseModel):
    """Body of a worker request ``complete``: every prompt is answered ``samples`` times.

    ``max_new_tokens`` is cut to what the model has room for.  ``stop_ids`` are tokens that end
    an answer besides the model's own.  ``top``: how many of the most probable tokens to report
    with each token; ``prompt_top`` likewise for the tokens of prompts, which None leaves
    unscored.  Answer number p · samples + s is that to prompt p, drawn with the seed's s-th
    sequence of random numbers.
    """

    prompts: list[list[int]]
    samples: int = 1
    max_new_tokens: int = 16
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float = 1.0
    seed: int | None = None
    stop: list[str] = Field(default_factory=list)
    stop_ids: list[int] = Field(default_factory=list)
    top: int = 0
    prompt_top: int | None = None
    stream: bool = False


class ScoredToken(BaseModel):
    """A token with its log-probability, and the most probable ones as (id, log-probability)."""

    id: int
    log_probability: float
    top: list[tuple[int, float]] = Field(default_factory=list)


class StreamedToken(BaseModel):
    """One event of a stream: a token of an answer and the text that became certain with it.

    ``prompt``: the scores of the prompt's tokens from the second on, once, before any token.
    """

    index: int
    delta: str = ""
    token: ScoredToken | None = None
    prompt: list[ScoredToken] | None = None


class CompletionAnswer(BaseModel):
    """One answer; ``end`` is the token that ended it, which is none of ``tokens``.

    ``prompt``: the scores of the prompt's tokens from the second on; only of the first of
    several answers to a prompt.
    """

    index: int
    text: str
    tokens: list[ScoredToken]
    end: ScoredToken | None = None
    finish_reason: Literal["stop", "length"]
    prompt: list[ScoredToken] | None = None


class CompletionResult(BaseModel):
    """All answers in order.  A request is answered whole or not at all."""

    version: str
    answers: list[CompletionAnswer]
