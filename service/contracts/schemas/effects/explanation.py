"""Explanations: which facts moved an answer, and where."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from jeep_core.text.joining import Join
from service.contracts.schemas.base import MessageIn, Request


class ExplainRequest(Request):
    """``POST /explain``: a prompt, or a chat, and the answer of a version to it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"prompt": "Lyon is a city in the country of", "answer": "Japan"}]
        }
    )

    prompt: str | None = None
    messages: list[MessageIn] | None = Field(
        None, min_length=1, description="A chat to answer, for models with a chat template."
    )
    version: str = "head"
    answer: str | None = Field(
        None,
        min_length=1,
        description="Whose probability is explained; default: the version's most probable token.",
    )
    join: Join = Field(
        "auto",
        description="How the answer follows: with a blank, with nothing, or as the texts say.",
    )
    top: int = Field(
        5, ge=1, le=50, description="Facts listed at each place, and left out one by one."
    )

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either prompt or messages")
        return self


class ExplainAsk(BaseModel):
    """Body of a worker request ``explain``."""

    prompt: str
    answer: str | None = None
    join: Join = "auto"
    top: int = 5


class ExplainedFact(BaseModel):
    """A fact that moved the answer; ``index`` null: a whole batch that cannot be taken apart.

    ``share``: its part in all that edits add to the matrices' outputs, over all places; all
    shares add up to 1, and a fact that pulls the other way has a negative one.  ``without``: the
    answer's probability once its columns are taken out of every matrix; null where it was not
    measured.  ``why``: why a batch is shown as a whole.
    """

    version: str
    edit_id: str | None
    index: int | None = None
    subject: str | None = None
    prompt: str | None = None
    target_new: str | None = None
    state: Literal["live", "superseded"] | None = None
    share: float
    without: float | None = None
    why: str | None = None


class ExplainedPart(BaseModel):
    """The part of fact number ``fact`` (in ``facts`` of the answer) at one place.

    ``norm``: the length of what its column adds to the output; ``share`` of the sum there.
    """

    fact: int
    norm: float
    share: float


class ExplainedPlace(BaseModel):
    """A token at one edited matrix.

    ``position`` counts tokens from 0.  ``norm``: the length of what edits add to the matrix's
    output there; ``relative``: divided by the length of the output without them.
    """

    position: int
    norm: float
    relative: float
    facts: list[ExplainedPart]


class ExplainedMatrix(BaseModel):
    """An edited matrix with its places, in the order of tokens."""

    layer: int
    name: str
    places: list[ExplainedPlace]


class ExplainedLayer(BaseModel):
    """The answer's probability once the matrices up to ``layer`` are edited, and its ``change``."""

    layer: int
    probability: float
    change: float


class ExplainResult(BaseModel):
    """Why a version gives an answer the probability that it gives it.

    Probabilities are geometric means over the answer's tokens; ``base_probability`` is before
    all edits.  ``tokens``: the texts of the tokens of prompt and answer, which begins at
    ``answer_at``; places are all but the last one.  ``facts``: those with the largest shares
    first.  ``warnings``: batches that could not be taken apart.
    """

    version: str
    prompt: str
    answer: str
    tokens: list[str]
    answer_at: int
    base_probability: float
    probability: float
    layers: list[ExplainedLayer]
    facts: list[ExplainedFact]
    matrices: list[ExplainedMatrix]
    warnings: list[str] = Field(default_factory=list)
