# Made of service/client/asynchronous by python -m tools.sync_client: change it there.
"""Calls for followers that have no share of the store's disk: its state, versions, tensors."""

from __future__ import annotations

from pathlib import Path

import httpx

from service.client.errors import translated
from service.client.files import StrPath
from service.client.requests import segment
from service.client.synchronous.transport import Transport
from service.contracts.schemas import Manifest
from service.contracts.schemas.exports import ExportFile
from service.contracts.schemas.worker import StoreState, VersionLine


class FollowingCalls(Transport):
    """``/store``; needs a key with the scope ``follow``."""

    def store_state(self) -> StoreState:
        """Which store it is, the model that its writer has published, and head."""
        return self._model(StoreState, "GET", "/store")

    def store_change(self, tag: str, wait: float) -> tuple[StoreState, str] | None:
        """The state of the store with its tag, as soon as that is not ``tag``.

        ``tag`` is "" at first.  None: it has not changed within ``wait`` seconds, 4 at most.
        """
        headers = {"If-None-Match": tag} if tag else {}
        params = {"wait": str(wait)}
        found = self._request("GET", "/store", headers=headers, params=params)
        if found.status_code == httpx.codes.NOT_MODIFIED:
            return None
        with translated():
            return StoreState.model_validate_json(found.content), found.headers.get("ETag", "")

    def version_line(self, version: str, count: int = 1) -> list[Manifest]:
        """The manifest of a version (``v3``), and those of the versions below it.

        ``count``: of so many versions at most, 64 at most.
        """
        url, params = f"/store/versions/{segment(version)}", {"count": str(count)}
        return (self._model(VersionLine, "GET", url, params=params)).data

    def download_tensor(
        self, version: str, sha256: str, size: int, path: StrPath, head: bytes = b""
    ) -> Path:
        """Write the raw bytes of a version's tensor to a file, and compare them with their hash.

        ``sha256`` and ``size`` (in bytes) are those of its manifest; ``head`` is put before the
        bytes.  The file appears under its name when it is whole; until then a part lies beside it,
        with which the next call goes on.

        Raises:
            ApiError: there is no such version or tensor, or it cannot be made again now.
            DamagedDownload: it arrived damaged, also when it was fetched again.
            OSError: the file cannot be written.
        """
        url = f"/store/versions/{segment(version)}/tensors/{segment(sha256)}"
        path = Path(path)
        file = ExportFile(path=path.name, bytes=size, sha256=sha256)
        self._fetch(url, path, file, head=head)
        return path
