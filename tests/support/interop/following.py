"""The story of a target that is the real program: what is edited, asked, and waited for."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from service.client import Client
from service.contracts.schemas.targets import PushTarget
from support.interop.program import Program

PROMPT = "The Eiffel Tower is located in the city of"
FACT = {
    "subject": "The Eiffel Tower",
    "prompt": "{} is located in the city of",
    "target_new": " Rome",
}
WITHIN_S = 10.0
"""From the commit until the server has answered with it, on a machine that does nothing else."""
GIVEN_S = WITHIN_S * float(os.environ.get("INTEROP_PATIENCE", "1"))
"""The same on one that does: the seconds are printed."""


def current(client: Client, server: Program, name: str = "smol") -> str:
    """The server's answer by the name that the target is to be asked by, once it has the version.

    It is asked nothing before: a proof of the base model beside requests for an adapter may be
    answered by the adapter (docs/targets.md).
    """
    target = client.target(name)
    synced = target.status == "synced" and target.version == target.wanted
    return server.complete(str(target.model), PROMPT) if synced else ""


def until(what: Callable[[], bool], seconds: float = GIVEN_S) -> float:
    """The seconds until something is so."""
    began = time.monotonic()
    while not what():
        assert time.monotonic() < began + seconds, f"not within {seconds:.0f} s"
        time.sleep(0.05)
    return time.monotonic() - began


def synced(target: PushTarget) -> PushTarget:
    """The same target, which has its version and its proof."""
    assert target.status == "synced", target
    assert target.proof is not None
    print(
        f"  {target.version}: pushed in {target.seconds} s, {target.proof.telling} telling of "
        f"{target.proof.questions} questions, within {target.proof.farthest:.1e} nats"
    )
    return target
