"""Calls about what edits did: explanations of answers, drift of versions, checks of facts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from service.client.asynchronous.transport import Transport
from service.client.files import StrPath
from service.client.requests import ANSWER_S, given, segment
from service.contracts.schemas import JobOut
from service.contracts.schemas.effects.checks import Check, CheckSummary
from service.contracts.schemas.effects.drift import Drift
from service.contracts.schemas.effects.explanation import ExplainResult
from service.contracts.schemas.jobs import DriftSummary


class EffectCalls(Transport):
    """``/explain``, ``/drifts`` and ``/checks``."""

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

    async def check(
        self,
        version: str = "head",
        facts: int | Literal["all"] = "all",
        *,
        idempotency_key: str | None = None,
        **options: Any,
    ) -> JobOut:
        """Ask a version the facts that it is meant to say; options as in ``POST /checks``.

        Safe to repeat, as ``edit``.
        """
        body = {"version": version, "facts": facts, **given(options)}
        return await self._queued("/checks", body, idempotency_key)

    def checks(self) -> AsyncIterator[CheckSummary]:
        """Checks of facts, newest first, without the facts that do not hold."""
        return self._pages(CheckSummary, "/checks")

    async def check_result(self, check_id: str) -> Check:
        """The status of a check and, once there is one, its result."""
        return await self._model(Check, "GET", f"/checks/{segment(check_id)}")

    async def missing_facts(self, check_id: str, path: StrPath) -> int:
        """Write the facts that a check has found not to hold to ``path``, to be edited again.

        Returns the size in bytes.  One fact a line, as ``edit`` takes them; the file appears under
        its name only when it is complete.

        Raises:
            ApiError: the check has not ended, or not with a result.
        """
        return await self._download(f"/checks/{segment(check_id)}/missing", Path(path))
