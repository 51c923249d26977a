"""Earlier facts: which of those that a version is meant to say an edit has broken, or mended."""

from __future__ import annotations

from pydantic import BaseModel, Field


class EarlierFact(BaseModel):
    """A lost fact of an earlier batch: ``answer`` is what the new version writes instead."""

    version: str
    index: int
    prompt: str
    target_new: str
    answer: str


class MendedFact(BaseModel):
    """Fact ``index`` of a batch that is there because the batch had broken it.

    It was taught first as fact ``first_index`` of the batch ``first_edit``: a revert of that one
    takes it back here, too.
    """

    index: int
    first_edit: str
    first_index: int


class EarlierFacts(BaseModel):
    """The check of facts of earlier batches on the new version.

    ``live``: how many there are that this batch does not edit again; ``checked``: of these, all or
    a sample drawn by ``seed``.  ``held`` and ``missing``: by version the indices of those that the
    new version says and does not say.  ``lost``: those of ``missing`` that the parent says.
    ``repaired``: how many lost ones were edited again with the batch; they are facts of the batch
    now, the last ones, and no longer among the checked.
    """

    live: int
    checked: int
    seed: int
    held: dict[str, list[int]] = Field(default_factory=dict)
    missing: dict[str, list[int]] = Field(default_factory=dict)
    lost: list[EarlierFact] = Field(default_factory=list)
    repaired: int = 0
