"""Facts as a version holds them."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel

from jeep_core.text.joining import Join


class FactEntry(BaseModel):
    """One fact of a version's line.

    ``version`` is where its batch was written, ``index`` its place in the batch's request, ``text``
    the prompt with the subject filled in.  ``live``: no later batch of the line edits the same
    fact; else it is ``superseded``, by the next batch that does.
    """

    subject: str
    prompt: str
    text: str
    target_new: str
    target_true: str | None = None
    join: Join = "auto"
    edit_id: str
    version: str
    index: int
    state: Literal["live", "superseded"]
    superseded_by: str | None = None
    created_at: datetime
