"""Calls for contrast probes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from service.client.asynchronous.aside import aside
from service.client.asynchronous.transport import Transport
from service.client.files import StrPath
from service.client.requests import given, segment
from service.contracts.schemas import JobOut
from service.contracts.schemas.jobs import ProbeSummary
from service.contracts.schemas.probe import Probe


class ProbeCalls(Transport):
    """``/probes``."""

    async def probe(
        self,
        suite: str | None = None,
        facts: Sequence[Mapping[str, Any]] | None = None,
        version: str = "head",
        *,
        idempotency_key: str | None = None,
        **options: Any,
    ) -> JobOut:
        """Probe a version on a suite or on facts; options as in ``POST /probes``.

        Safe to repeat, as ``edit``.
        """
        body = {"suite": suite, "facts": facts and [dict(fact) for fact in facts], **options}
        return await self._queued("/probes", {"version": version, **given(body)}, idempotency_key)

    def probes(self) -> AsyncIterator[ProbeSummary]:
        """Probes, newest first, without their figures."""
        return self._pages(ProbeSummary, "/probes")

    async def probe_result(self, probe_id: str) -> Probe:
        """The status of a probe and, once it has ended, all its figures."""
        return await self._model(Probe, "GET", f"/probes/{segment(probe_id)}")

    async def probe_files(self, probe_id: str, folder: StrPath) -> list[Path]:
        """Write the record and the plots of a probe into a folder.

        Raises:
            ApiError: also when the probe has not ended.
        """
        folder = Path(folder)
        result = (await self.probe_result(probe_id)).result
        folder.mkdir(parents=True, exist_ok=True)
        written = []
        for name in result.files if result else ["probe.json"]:
            url = f"/probes/{segment(probe_id)}/files/{segment(name)}"
            path = folder / name
            response = await self._request("GET", url)
            await aside(path.write_bytes, response.content)
            written.append(path)
        return written
