"""Outcomes of an edit: what each fact was answered before and after, and what was written."""

from __future__ import annotations

from pydantic import BaseModel, Field


class Answer(BaseModel):
    """A version's answer to a fact's prompt; probabilities are per-token geometric means."""

    p_new: float
    p_true: float | None = None
    text: str
    writes_new: bool = Field(
        False, description="Greedy decoding writes target_new, all of it and as whole words."
    )


class FactOutcome(BaseModel):
    """One fact before and after the edit; ``success``: the model writes ``target_new``.

    ``index`` is the fact's place in the request.  A fact that was edited for being asked in a
    chat only is asked there; one that was edited for both has answers of both, and success in
    both.
    """

    index: int
    subject: str
    prompt: str
    target_new: str
    target_true: str | None = None
    before: Answer
    after: Answer
    chat_before: Answer | None = None
    chat_after: Answer | None = None
    success: bool
    steps: int | None = None
    target_probability: float | None = Field(
        None,
        description="Of the new answer with the vector that value optimisation found; null for "
        "editors that optimise none, and where norm_anchor has changed the vector since.",
    )


class LayerReport(BaseModel):
    """One written matrix: region, ‖Δ‖/‖W‖ and the residual before and after its update.

    Residuals and condition are null for editors that solve no linear system.
    """

    name: str
    layer: int
    region: str
    relative_norm: float
    residual_before: float | None
    residual_after: float | None
    condition: float | None
