"""Guards of an edit: limits on what it may do to the model."""

from __future__ import annotations

from typing import Annotated, NamedTuple

from pydantic import BaseModel, Field

from service.contracts.schemas.base import Request

Share = Annotated[float, Field(ge=0, le=1)]


class Guards(Request):
    """Limits of an edit.  If one is not met the job fails, and nothing is changed."""

    min_success: Share | None = Field(
        None,
        description="Share of the facts whose new answer the model writes, in every way that they "
        "were edited for: to the plain prompt, in a chat, or both. Earlier facts that are edited "
        "again do not count.",
    )
    min_efficacy: Share | None = Field(
        None,
        description="Share of the facts whose target_new is more probable than their target_true "
        "on the plain prompt (in a chat only where facts were edited for that alone). It compares "
        "probabilities and does not ask for the answer to be written; only facts without "
        "target_true must be. For that, see min_success. Earlier facts that are edited again "
        "do not count.",
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
    success: float | None = Field(
        None, description="Share of the facts that are written in every way they were edited for."
    )
    success_before: float | None = None
    locality: float | None = None
    locality_before: float | None = None
    perplexity: float | None = None
    perplexity_before: float | None = None
    perplexity_ratio: float | None = None
    drift: float | None = None
    ability: float | None = None
    ability_facts: int | None = Field(None, description="Facts that `ability` is a share of.")


class GuardOutcome(NamedTuple):
    """One guard: its field, its limit, and the figure that was measured for it, or None."""

    name: str
    limit: float
    figure: float | None


def outcomes(limits: Guards | None, figures: GuardFigures | None) -> list[GuardOutcome]:
    """Every limit that was set, with its figure: min_efficacy with efficacy, and so on."""
    given = {} if limits is None else limits.model_dump(exclude_none=True)
    return [
        GuardOutcome(name, limit, getattr(figures, name.partition("_")[2], None))
        for name, limit in given.items()
    ]
