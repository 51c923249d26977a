"""Calls for the facts of a version, reverts and staged versions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from service.client.transport import Transport, given, segment
from service.contracts.schemas import Activation, FactEntry, JobOut


class VersionCalls(Transport):
    """Facts, reverts, staged versions."""

    def facts(
        self, subject: str | None = None, version: str = "head", contains: str | None = None
    ) -> Iterator[FactEntry]:
        """The live facts of a version, or all that its history says about one subject.

        With ``contains`` only those whose subject, prompt or new answer has this text in it.
        """
        params = given({"subject": subject, "version": version, "contains": contains})
        return (FactEntry.model_validate(item) for item in self._pages("/facts", params))

    def revert(self, edit_id: str, *, idempotency_key: str | None = None, **options: Any) -> JobOut:
        """Remove one batch from head's history; options: ``parent``, ``snapshot_name``.

        Safe to repeat: a key is generated where none is given, and a lost answer is requested
        again.
        """
        url = f"/edits/{segment(edit_id)}/revert"
        return self._queued(url, given(options), idempotency_key)

    def activate(self, ref: str, why: str = "") -> Activation:
        """Move head to a staged version whose parent is head; returns when the model serves it."""
        url = f"/snapshots/{segment(ref)}/activate"
        return self._model(Activation, "POST", url, json={"why": why}, again=True)
