"""Whether all that an edit needs is there, as pages show it."""

from __future__ import annotations

from typing import Any

from service.api.console.calls import Calls
from service.api.http.problems import ApiProblem
from service.api.operations.health import Ready


async def readiness(calls: Calls) -> tuple[Ready | None, list[dict[str, Any]]]:
    """All that is ready, or None and the parts that are missing, with a message each."""
    try:
        return await calls.get("/readyz", Ready), []
    except ApiProblem as problem:
        if not problem.errors:
            raise
        return None, list(problem.errors)
