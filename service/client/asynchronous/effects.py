"""Calls about what edits did: explanations of answers, drift of versions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from service.client.asynchronous.transport import Transport
from service.client.requests import ANSWER_S, given, segment
from service.contracts.schemas import JobOut
from service.contracts.schemas.effects.drift import Drift
from service.contracts.schemas.effects.explanation import ExplainResult
from service.contracts.schemas.jobs import DriftSummary


class EffectCalls(Transport):
    """``/explain`` and ``/drifts``."""

    async def explain(
        self,
        prompt: str | None = None,
        version: str = "head",
        *,
        messages: Sequence[Mapping[str, str]] | None = None,
        answer: str | None = None,
        **options: Any,
    ) -> ExplainResult:
        """Say which facts moved an answer of a version; options as in ``POST /explain``.

        ``answer``: whose probability is explained; default: the version's most probable token.

        Raises:
            ApiError: ``not_explainable``, if the editor's updates have no column for each fact.
        """
        chat = None if messages is None else [dict(message) for message in messages]
        asked = {"prompt": prompt, "messages": chat, "version": version, "answer": answer}
        body = given({**asked, **options})
        limits = self._within(ANSWER_S)
        return await self._model(
            ExplainResult, "POST", "/explain", json=body, again=True, timeout=limits
        )

    async def drift(
        self,
        version: str = "head",
        against: str = "base",
        *,
        idempotency_key: str | None = None,
        **options: Any,
    ) -> JobOut:
        """Compare a version with another one; options as in ``POST /drifts``.

        Safe to repeat, as ``edit``.
        """
        body = {"version": version, "against": against, **given(options)}
        return await self._queued("/drifts", body, idempotency_key)

    def drifts(self) -> AsyncIterator[DriftSummary]:
        """Comparisons, newest first, without their results."""
        return self._pages(DriftSummary, "/drifts")

    async def drift_result(self, drift_id: str) -> Drift:
        """The status of a comparison and, once there is one, its result."""
        return await self._model(Drift, "GET", f"/drifts/{segment(drift_id)}")
