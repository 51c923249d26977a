# Made of service/client/asynchronous by python -m tools.sync_client: change it there.
"""Calls for contrast probes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from service.client.files import StrPath
from service.client.requests import given, segment
from service.client.synchronous.aside import aside
from service.client.synchronous.transport import Transport
from service.contracts.schemas import JobOut
from service.contracts.schemas.jobs import ProbeSummary
from service.contracts.schemas.probe import Probe


class ProbeCalls(Transport):
    """``/probes``."""

    def probe(
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
        return self._queued("/probes", {"version": version, **given(body)}, idempotency_key)

    def probes(self) -> Iterator[ProbeSummary]:
        """Probes, newest first, without their figures."""
        return self._pages(ProbeSummary, "/probes")

    def probe_result(self, probe_id: str) -> Probe:
        """The status of a probe and, once it has ended, all its figures."""
        return self._model(Probe, "GET", f"/probes/{segment(probe_id)}")

    def probe_files(self, probe_id: str, folder: StrPath) -> list[Path]:
        """Write the record and the plots of a probe into a folder.

        Raises:
            ApiError: also when the probe has not ended.
        """
        folder = Path(folder)
        result = (self.probe_result(probe_id)).result
        folder.mkdir(parents=True, exist_ok=True)
        written = []
        for name in result.files if result else ["probe.json"]:
            url = f"/probes/{segment(probe_id)}/files/{segment(name)}"
            path = folder / name
            response = self._request("GET", url)
            aside(path.write_bytes, response.content)
            written.append(path)
        return written
