# Made of service/client/asynchronous by python -m tools.sync_client: change it there.
"""Calls for targets: servers that are kept at a version."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

from service.client.requests import given, segment
from service.client.synchronous.aside import sleep
from service.client.synchronous.transport import Transport
from service.contracts.schemas.targets import PushTarget, TargetList

POLL_S = 0.2


class TargetCalls(Transport):
    """``/targets``; all but showing them needs a key with the scope ``admin``."""

    def targets(self) -> list[PushTarget]:
        """All targets, oldest first."""
        return (self._model(TargetList, "GET", "/targets")).data

    def target(self, ref: str) -> PushTarget:
        """One target by its id or name."""
        return self._model(PushTarget, "GET", f"/targets/{segment(ref)}")

    def add_target(self, name: str, kind: str, address: str, **options: Any) -> PushTarget:
        """Register a running server; options as in ``POST /targets`` (follow, secret, …)."""
        body = {"name": name, "kind": kind, "address": address, **given(options)}
        return self._model(PushTarget, "POST", "/targets", json=body)

    def follow_with_target(self, ref: str, follow: str) -> PushTarget:
        """Let a target follow another version or name."""
        url = f"/targets/{segment(ref)}"
        return self._model(PushTarget, "PATCH", url, json={"follow": follow}, again=True)

    def remove_target(self, ref: str) -> None:
        """Remove a target; the worker unloads what it has loaded on its server."""
        self._request("DELETE", f"/targets/{segment(ref)}")

    def sync_target(self, ref: str) -> PushTarget:
        """Have the worker look at a target now; the answer is the state before."""
        url = f"/targets/{segment(ref)}/sync"
        return self._model(PushTarget, "POST", url, again=True)

    def wait_target(
        self, ref: str, timeout: float = 60.0, after: datetime | None = None
    ) -> PushTarget:
        """Wait until a target is synced, or its last try has failed, or the time is over.

        ``after``: a try that ended then, or before, is not the one that is waited for.
        """
        end = time.monotonic() + timeout
        while True:
            found = self.target(ref)
            tried = found.looked_at is not None and (after is None or found.looked_at > after)
            ended = tried and found.status != "behind"
            if ended or time.monotonic() > end:
                return found
            sleep(POLL_S)
