"""Starting a job from a form: fields as the interface takes them, and where its result is shown."""

from __future__ import annotations

import re
from typing import Any

from fastapi import Request
from pydantic import BaseModel

from service.api.console.calls import Calls, at
from service.api.console.forms import Form
from service.api.http.sessions import CONSOLE
from service.contracts.schemas import JobOut

_WHOLE = re.compile(r"-?\d{1,18}", re.ASCII)


class Started(BaseModel):
    """The page that shows a job which a form has started."""

    location: str


def number(text: str) -> int | str:
    """A whole number; another text stays one, so that the interface says what is wrong with it."""
    return int(text) if _WHOLE.fullmatch(text.strip()) else text


def versions_of(form: Form) -> list[str]:
    """The versions that are ticked, and those that are written beside them, each once."""
    written = form.get("others").replace(",", " ").split()
    return list(dict.fromkeys([*form.all("version"), *written]))


async def started(request: Request, resource: str, body: dict[str, Any]) -> Started:
    """Start a job of a resource, once for each Idempotency-Key.

    Raises:
        ApiProblem: as the interface answers.
    """
    key = request.headers.get("idempotency-key")
    headers = {} if key is None else {"Idempotency-Key": key}
    job = await Calls(request).post(f"/{resource}", JobOut, body, headers)
    return Started(location=at(f"{CONSOLE}/{resource}/{{}}", job.resource_id))
