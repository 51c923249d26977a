"""Calls for the audit log."""

from __future__ import annotations

from collections.abc import Iterator

from service.client.transport import Transport
from service.contracts.schemas.access import AuditEntry


class AuditCalls(Transport):
    """Needs a key with the scope ``admin``."""

    def audit(self) -> Iterator[AuditEntry]:
        """The entries of the audit log, newest first."""
        return (AuditEntry.model_validate(item) for item in self._pages("/audit"))

    def check_admin(self) -> None:
        """Do nothing with a key that has the scope ``admin``.

        Raises:
            ApiError: 403, for another one.
        """
        self._request("GET", "/audit", params={"limit": "1"})
