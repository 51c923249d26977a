"""Guards of an edit: limits on what it may do to the model."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

from service.contracts.schemas.base import Request

Share = Annotated[float, Field(ge=0, le=1)]


class Guards(Request):
    """Limits of an edit.  If one is not met the job fails, and nothing is changed."""

    min_efficacy: Share | None = Field(
        None,
        description="Share of the facts whose new answer wins on the edit prompt; earlier facts "
        "that are edited again with them do not count.",
    )
    min_locality: Share | None = Field(
        None,
        description="Mean share of a fact's neighborhood_prompts that keep their answer: with "
        "target_true, where it is more probable than target_new; without, where the greedy "
        "answer is the parent's.",
    )
    max_perplexity_ratio: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Perplexity on the configured text, divided by the parent's."
    )
    max_drift: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="Mean KL(parent ‖ new version) of the next token in nats per token, on the "
        "text for perplexity, else on the English one that ships.",
    )
    min_ability: Share | None = Field(
        None,
        description="Share of the general knowledge that the parent writes, and that names no "
        "subject of the batch, which the new version still writes.",
    )


class GuardFigures(BaseModel):
    """The figures measured for the guards of an edit; null where no guard needs one.

    ``…_before`` is the parent's figure.
    """

    efficacy: float
    efficacy_before: float
    locality: float | None = None
    locality_before: float | None = None
    perplexity: float | None = None
    perplexity_before: float | None = None
    perplexity_ratio: float | None = None
    drift: float | None = None
    ability: float | None = None
    ability_facts: int | None = Field(None, description="Facts that `ability` is a share of.")
