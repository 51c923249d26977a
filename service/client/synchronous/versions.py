# Made of service/client/asynchronous by python -m tools.sync_client: change it there.
"""Calls for versions: their list, facts, differences and names, and moving head."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from service.client.files import StrPath
from service.client.requests import ANSWER_S, given, segment
from service.client.synchronous.transport import Transport
from service.contracts.schemas import Activation, FactEntry, RollbackResult, Snapshot, SnapshotDiff


class VersionCalls(Transport):
    """``/snapshots``, ``/facts``, ``/rollback``."""

    def snapshots(self) -> Iterator[Snapshot]:
        """Versions, newest first."""
        return self._pages(Snapshot, "/snapshots")

    def snapshot(self, ref: str = "head") -> Snapshot:
        """One version by id or name."""
        return self._model(Snapshot, "GET", f"/snapshots/{segment(ref)}")

    def name_snapshot(self, name: str, version: str = "head") -> Snapshot:
        """Give a version a name."""
        body = {"name": name, "version": version}
        return self._model(Snapshot, "POST", "/snapshots", json=body)

    def diff(self, a: str, b: str) -> SnapshotDiff:
        """The differences between ``a`` and ``b``."""
        url = f"/snapshots/{segment(a)}/diff/{segment(b)}"
        return self._model(SnapshotDiff, "GET", url)

    def export(self, ref: str, path: StrPath, format: str | None = None) -> int:
        """Write a version to ``path``, as a safetensors file unless a format is named.

        Returns the size in bytes.  The file appears under its name only when it is complete.
        """
        url = f"/snapshots/{segment(ref)}/export"
        # tensors that were dropped are made again first
        return self._download(url, Path(path), given({"format": format}), ANSWER_S)

    def rollback(self, ref: str, why: str = "", cancel_queued: bool = False) -> RollbackResult:
        """Move head to a version; returns when the model serves it."""
        params = {"queued": "cancel"} if cancel_queued else {}
        url, limits = f"/rollback/{segment(ref)}", self._within(ANSWER_S)
        return self._model(
            RollbackResult, "POST", url, json={"why": why}, params=params, timeout=limits
        )

    def activate(self, ref: str, why: str = "") -> Activation:
        """Move head to a staged version whose parent is head; returns when the model serves it."""
        url, limits = f"/snapshots/{segment(ref)}/activate", self._within(ANSWER_S)
        return self._model(Activation, "POST", url, json={"why": why}, again=True, timeout=limits)

    def facts(
        self,
        subject: str | None = None,
        version: str = "head",
        contains: str | None = None,
        holds: bool | None = None,
    ) -> Iterator[FactEntry]:
        """The live facts of a version, or all that its history says about one subject.

        With ``contains`` only those whose subject, prompt or new answer has this text in it, with
        ``holds`` only those that held when they were last asked, or did not.
        """
        query = {"subject": subject, "version": version, "contains": contains, "holds": holds}
        params = given(query)
        return self._pages(FactEntry, "/facts", params)
