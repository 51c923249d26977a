"""Calls for those who run the service: whether it is ready, and its audit log."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import httpx

from service.client.asynchronous.aside import sleep
from service.client.asynchronous.transport import Transport
from service.client.errors import NotReady, translated
from service.contracts.schemas import WorkerOut
from service.contracts.schemas.access import AuditEntry


class OperationCalls(Transport):
    """``/readyz``, ``/workers`` and ``/audit``."""

    async def ready(self) -> bool:
        """Whether api, queue and worker are all up."""
        self._check_open()
        try:
            response = await self._http.get("/readyz")
        except httpx.TransportError:
            return False
        return response.status_code == 200

    async def wait_ready(self, timeout: float = 120.0) -> None:
        """Wait until the service is ready.

        Raises:
            NotReady: it is not within ``timeout`` seconds; also a ``TimeoutError``.
        """
        deadline = time.monotonic() + timeout
        while not await self.ready():
            if time.monotonic() > deadline:
                raise NotReady(f"the service was not ready after {timeout:.0f} s")
            await sleep(0.2)

    async def workers(self) -> list[WorkerOut]:
        """The workers that were heard of in the last seconds: the writer, then its followers."""
        found = await self._request("GET", "/workers")
        with translated():
            return [WorkerOut.model_validate(one) for one in found.json()["data"]]

    def audit(self) -> AsyncIterator[AuditEntry]:
        """The entries of the audit log, newest first; needs a key with the scope ``admin``."""
        return self._pages(AuditEntry, "/audit")

    async def check_admin(self) -> None:
        """Do nothing with a key that has the scope ``admin``.

        Raises:
            ApiError: 403, for another one.
        """
        await self._request("GET", "/audit", params={"limit": "1"})
