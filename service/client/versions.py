"""Calls about versions that are not head yet."""

from __future__ import annotations

from service.client.transport import Transport, segment
from service.schemas import Activation


class VersionCalls(Transport):
    """Staged versions."""

    def activate(self, ref: str, why: str = "") -> Activation:
        """Move head to a staged version whose parent is head; returns when the model serves it."""
        url = f"/snapshots/{segment(ref)}/activate"
        return self._model(Activation, "POST", url, json={"why": why}, again=True)
