"""Earlier facts: which of those that a version is meant to say an edit has broken, or mended."""

from __future__ import annotations

import re
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, computed_field

MOST_EARLIER = 1_000_000
REPAIR_ALL = '"repair": true with "check_earlier": "all"'
"""The fields of a request that mend every live fact, as messages name them."""
_DIGITS = re.compile("[0-9]{1,9}")


def _count_or_all(value: Any, lowest: int = 0) -> Any:
    number = int(value) if isinstance(value, str) and _DIGITS.fullmatch(value) else value
    whole = isinstance(number, int) and not isinstance(number, bool)
    if number == "all" or (whole and lowest <= number <= MOST_EARLIER):
        return number
    raise ValueError(f'must be a whole number from {lowest} to {MOST_EARLIER}, or "all"')


CheckEarlier = Annotated[
    Annotated[int, Field(ge=0, le=MOST_EARLIER)] | Literal["all"], BeforeValidator(_count_or_all)
]
SomeOrAll = Annotated[
    Annotated[int, Field(ge=1, le=MOST_EARLIER)] | Literal["all"],
    BeforeValidator(partial(_count_or_all, lowest=1)),
]


class EarlierFact(BaseModel):
    """A lost fact of an earlier batch: ``answer`` is what the new version writes instead."""

    version: str
    index: int
    prompt: str
    target_new: str
    answer: str


class MendedFact(BaseModel):
    """Fact ``index`` of a batch that is there because the model did not say it without it.

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
    new version says and does not say.  ``lost``: those of ``missing`` that the parent says, so that
    this batch has broken them; ``missing_before``: how many of ``missing`` the parent does not say
    either, lost by an earlier batch or never taken.  ``repaired``: how many missing ones were
    edited again with the batch; they are facts of the batch now, the last ones, and no longer
    among the checked.  ``repaired_before``: how many of these the parent did not say either.
    """

    live: int
    checked: int
    seed: int
    held: dict[str, list[int]] = Field(default_factory=dict)
    missing: dict[str, list[int]] = Field(default_factory=dict)
    lost: list[EarlierFact] = Field(default_factory=list)
    repaired: int = 0
    repaired_before: int = 0

    @computed_field  # type: ignore[prop-decorator]
    @property
    def missing_before(self) -> int:
        """Counted, as records of earlier releases lack it."""
        return max(0, sum(map(len, self.missing.values())) - len(self.lost))
