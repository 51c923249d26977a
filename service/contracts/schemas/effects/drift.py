"""Drift: how far a version has moved away from another one, where, and because of which facts."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field

from jeep_core.evaluation.protocols import ALL, PROMPTS
from service.contracts.jobs import JobError, JobStatus, Progress
from service.contracts.schemas.base import MetricProtocol, Request
from service.contracts.schemas.effects.explanation import ExplainedFact
from service.contracts.schemas.evaluation import MetricInterval

MAX_TEXTS = 10_000
RESERVED_KINDS = frozenset({ALL, PROMPTS})


def _own_kind(kind: str) -> str:
    if kind in RESERVED_KINDS:
        raise ValueError(f"{kind!r} names figures of its own: call this kind of text otherwise")
    return kind


Kind = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_own_kind)]


class DriftText(Request):
    """A text that no edit is about; figures are also given by ``kind``.

    It is none of ``prompts`` and ``all texts``, which have figures of their own.
    """

    text: str = Field(min_length=1)
    kind: Kind = "text"


class DriftRequest(Request):
    """``POST /drifts``: a version against another one, on texts and on prompts."""

    version: str = "head"
    against: str = Field("base", description="The version that it is compared with.")
    texts: list[DriftText] | None = Field(
        None,
        max_length=MAX_TEXTS,
        description="Default: the text for perplexity, a bundled model's own, else English that "
        "ships. An empty list: none.",
    )
    prompts: list[str] | None = Field(
        None,
        max_length=MAX_TEXTS,
        description="The token after each counts. Default: general knowledge that ships, of a "
        "bundled model its validation suite, but what names a subject that either version was "
        "edited for. An empty list: none.",
    )
    max_tokens: int = Field(
        8192, ge=2, le=10_000_000, description="Of the texts, in their order; prompts beside them."
    )
    worst: int = Field(20, ge=0, le=200, description="Places listed, the largest KL first.")
    explained: int = Field(5, ge=0, le=50, description="Of these, how many are explained by facts.")
    seed: int = Field(0, ge=0, lt=2**32, description="Of the intervals.")


class DriftPayload(BaseModel):
    """Payload of a drift job; versions are ids."""

    drift_id: str
    version: str
    against: str
    texts: list[DriftText] | None = None
    prompts: list[str] | None = None
    max_tokens: int
    worst: int
    explained: int
    seed: int = 0


class DriftFigures(BaseModel):
    """Figures of the passages of one ``kind``, with 95 % intervals over passages.

    ``kl``: mean KL(against ‖ version) in nats per token; ``changed``: per cent of the tokens at
    which another one is the most probable.  ``perplexity`` of all tokens of the kind together;
    ``text_perplexity``: the mean of every text's own; null for prompts.
    """

    kind: str
    passages: int
    tokens: int
    kl: MetricInterval
    changed: MetricInterval
    perplexity_before: float | None = None
    perplexity: float | None = None
    text_perplexity_before: float | None = None
    text_perplexity: float | None = None


class LikelyToken(BaseModel):
    """A token that may come next."""

    text: str
    probability: float


class DriftFact(ExplainedFact):
    """A fact that moved a place; ``kl_without``: the place's KL once it is taken out."""

    kl_without: float


class DriftPlace(BaseModel):
    """A place that moved: the ``context`` before it, and the most probable next tokens.

    ``passage``: its number among all prompts and, after these, all texts, from 0.
    ``facts``: the largest shares first; null where places are not explained.
    """

    kind: str
    passage: int
    context: str
    kl: float
    before: list[LikelyToken]
    after: list[LikelyToken]
    facts: list[DriftFact] | None = None


class DriftResult(BaseModel):
    """Result of a drift job.

    ``figures`` by kind, and ``all texts`` together where there are several.  ``texts`` and
    ``prompts`` say where they came from.  ``not_explained``: why places have no facts.
    """

    drift_id: str
    version: str
    against: str
    texts: str
    prompts: str
    figures: list[DriftFigures]
    worst: list[DriftPlace]
    not_explained: str | None = None
    protocol: MetricProtocol
    seconds: float


class Drift(BaseModel):
    """``GET /drifts/{id}``."""

    id: str
    job_id: str
    status: JobStatus
    version: str
    against: str
    created_at: datetime
    progress: Progress
    result: DriftResult | None = None
    error: JobError | None = None
