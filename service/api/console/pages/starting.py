"""Starting a job from a form: fields as the interface takes them, and where its result is shown."""

from __future__ import annotations

import re
from typing import Any

from fastapi import Request
from pydantic import BaseModel

from service.api.console.calls import Calls, at
from service.api.console.forms import Form
from service.api.http.access import caller_of
from service.api.http.sessions import CONSOLE
from service.contracts.schemas import JobOut
from service.contracts.schemas.access import Scope

_WHOLE = re.compile(r"-?\d{1,18}", re.ASCII)


class Started(BaseModel):
    """The page that shows what a form has started; None for a key that may not open it.

    ``said`` is what to say instead.
    """

    location: str | None
    said: str = ""


def number(text: str) -> int | str:
    """A whole number; another text stays one, so that the interface says what is wrong with it."""
    return int(text) if _WHOLE.fullmatch(text.strip()) else text


def versions_of(form: Form) -> list[str]:
    """The versions that are ticked, and those that are written beside them, each once."""
    written = form.get("others").replace(",", " ").split()
    return list(dict.fromkeys([*form.all("version"), *written]))


async def started(request: Request, resource: str, body: dict[str, Any], page: str = "") -> Started:
    """Start a job of a resource, once for each Idempotency-Key; ``page`` if it is not the resource.

    Raises:
        ApiProblem: as the interface answers.
    """
    key = request.headers.get("idempotency-key")
    headers = {} if key is None else {"Idempotency-Key": key}
    job = await Calls(request).post(f"/{resource}", JobOut, body, headers)
    page = page or resource
    return started_at(request, at(f"{CONSOLE}/{page}/{{}}", job.resource_id), job.resource_id)


def started_at(request: Request, location: str, name: str) -> Started:
    """The page of something that was accepted, if its reader may open it, else its name."""
    if caller_of(request).may(Scope.READ):
        return Started(location=location)
    said = f"Accepted as {name}. Seeing what becomes of it needs a key with the scope read."
    return Started(location=None, said=said)
