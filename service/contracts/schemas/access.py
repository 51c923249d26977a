"""Access rights: scopes, API keys as they are stored, callers, and the log of what they did."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class Scope(StrEnum):
    """A permission of a key.  Scopes do not include one another, but `admin` includes all."""

    READ = "read"
    GENERATE = "generate"
    EDIT = "edit"
    FOLLOW = "follow"
    ADMIN = "admin"


KeyName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$")]
"""A person's name for a key."""


class ApiKey(BaseModel):
    """A key as it is stored: without its secret, of which ``digest`` is a salted hash."""

    model_config = ConfigDict(frozen=True)

    id: str
    name: KeyName
    scopes: list[Scope] = Field(min_length=1)
    salt: str
    digest: str
    created_at: datetime
    revoked_at: datetime | None = None


class Caller(BaseModel):
    """The sender of a request: a key's id, name and scopes."""

    model_config = ConfigDict(frozen=True)

    id: str
    name: str
    scopes: frozenset[Scope]

    def may(self, scope: Scope) -> bool:
        """Whether this caller has a scope, by itself or as `admin`."""
        return scope in self.scopes or Scope.ADMIN in self.scopes


LOCAL = Caller(id="local", name="local", scopes=frozenset(Scope))
"""Everybody, where authentication is off."""


class AuditEntry(BaseModel):
    """A call that changes something, or would have: a line of the audit log.

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
