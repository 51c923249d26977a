"""The audit log: who did what to which version."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, Field


class AuditEntry(BaseModel):
    """A call that changes something, or would have.

    ``who`` is a key's id, ``anonymous``, ``local`` where authentication is off, or
    ``shell:<user>`` for commands that work on the store; ``action`` the operation of the api.
    """

    when: datetime
    who: str
    name: str = Field(default="", description="What the key was called.")
    action: str
    target: str = Field(description="The path and query of the call, or what a command changed.")
    status: int | None = None
    code: str | None = Field(default=None, description="Of the problem, if it was refused.")
    request_id: str = ""
    job_id: str | None = None
    version: str | None = Field(default=None, description="Made or meant by the call or its job.")
    suppressed: int = Field(
        default=0,
        description="Calls without a valid key, or too many, that got no line before this one.",
    )
