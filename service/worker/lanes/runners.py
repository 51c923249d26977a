"""From a kind of job to the function that runs it."""

from __future__ import annotations

from typing import Any

from service.contracts.jobs import JobKind, Lane
from service.contracts.kinds import load
from service.worker.failures import Refused


def load_runner(kind: JobKind, lane: Lane) -> Any:
    """The function of a kind's entry in the registry, imported when it is first needed.

    Raises:
        Refused: jobs of this kind do not run in ``lane``.
    """
    if kind.lane is not lane:
        message = f"the {lane.value} lane does not run jobs of kind {kind.value!r}"
        raise Refused("unknown_kind", message)
    return load(kind.spec.runner)
