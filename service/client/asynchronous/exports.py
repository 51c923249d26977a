"""Calls for exports: versions as files for other programs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from jeep_core.spec.facts import fill
from service.client.asynchronous.aside import aside
from service.client.asynchronous.transport import Transport
from service.client.errors import NothingLost
from service.client.files import OnFile, StrPath, alone, inside, is_whole, remove_former, untold
from service.client.requests import given, segment
from service.contracts.schemas import JobOut
from service.contracts.schemas.exports import Export, ProofSheet
from service.contracts.schemas.jobs import ExportSummary

MARGIN, STEPS = 6.0, 60
"""Of an edit that is to survive quantisation: nats, and passes at most."""


class _LiveFact(BaseModel):
    """A live fact as it is edited again."""

    subject: str
    prompt: str
    target_new: str


class ExportCalls(Transport):
    """``/exports``."""

    async def submit_export(
        self,
        /,  # so that any name is free for an option
        version: str = "head",
        *,
        format: str,
        idempotency_key: str | None = None,
        **options: Any,
    ) -> JobOut:
        """Have a version written; options as in ``POST /snapshots/{id}/export``.

        Safe to repeat: a key is generated where none is given, and a lost answer is requested
        again.
        """
        url = f"/snapshots/{segment(version)}/export"
        return await self._queued(url, {"format": format, **given(options)}, idempotency_key)

    def exports(self) -> AsyncIterator[ExportSummary]:
        """Exports, newest first, without their files."""
        return self._pages(ExportSummary, "/exports")

    async def export_result(self, export_id: str) -> Export:
        """The status of an export and, once it has ended, its files with their hashes."""
        return await self._model(Export, "GET", f"/exports/{segment(export_id)}")

    async def export_proof(self, export_id: str) -> ProofSheet:
        """The whole proof sheet: every fact, with the answers of the version and of the files."""
        return await self._model(ProofSheet, "GET", f"/exports/{segment(export_id)}/proof")

    async def strengthen_export(
        self, export_id: str, margin: float = MARGIN, *, idempotency_key: str | None = None
    ) -> JobOut:
        """Edit the facts that an export has lost again, with a margin; the new version can stay.

        ``margin``: nats by which every token of an answer is to lead before its fact stops.  The
        rest of the hyper-parameters is that of the exported version's own edit.  The exported
        version must be head.  Safe to repeat: a key is generated where none is given.

        Raises:
            ApiError: there is no such export, or its version is not head any more.
            NothingLost: the export has lost nothing.
        """
        proof = await self.export_proof(export_id)
        lost = {
            (line.prompt, line.target_new)
            for line in proof.asked
            if line.holds_in_version and not line.holds
        }
        version = (await self.export_result(export_id)).version
        live = self._pages(_LiveFact, "/facts", {"version": version})
        facts = [
            fact.model_dump()
            async for fact in live
            if (fill(fact.prompt, fact.subject), fact.target_new) in lost
        ]
        if not facts:
            raise NothingLost(f"{export_id} has lost no fact that could be edited again")
        shown = await self._json(f"/snapshots/{segment(version)}")
        edit = await self._json(f"/edits/{segment(shown['edit_id'])}")
        hparams = {**edit["hparams"], "margin": margin}
        hparams["n_steps"] = max(STEPS, hparams.get("n_steps", STEPS))
        body = {"facts": facts, "editor": edit["editor"], "hparams": hparams, "parent": version}
        return await self._queued("/edits", body, idempotency_key)

    async def remove_export(self, export_id: str) -> None:
        """Remove the files of an export; what it was, and its proof, stay."""
        await self._request("DELETE", f"/exports/{segment(export_id)}", again=True)

    async def download_export(
        self, export_id: str, folder: StrPath, on_file: OnFile | None = None
    ) -> list[Path]:
        """Write the files of an export into a folder, and compare each with its hash.

        Files that are there already, whole, are not fetched again, and a part of one is
        completed: call it again after it broke off.  ``on_file`` is told of every file and of
        how many of its bytes are there.  Files of another export that was fetched
        into this folder before are removed, and nothing else.

        Raises:
            ApiError: there is no such export, it has not ended, or its files have been removed.
            DamagedDownload: a file arrived damaged, also when it was fetched again.
            OSError: a file cannot be written, its name leads out of the folder, or another
                download into the folder is running.
        """
        folder, told = Path(folder), on_file or untold
        result = (await self.export_result(export_id)).result
        url = f"/exports/{segment(export_id)}"
        if result is None:  # the answer says why
            await self._request("GET", f"{url}/proof")
        files = result.files if result else []
        paths = [inside(folder, file.path) for file in files]
        with alone(folder):
            if result is not None:
                remove_former(folder, result.files)
            for path, file in zip(paths, files, strict=True):
                path.parent.mkdir(parents=True, exist_ok=True)
                if not await aside(is_whole, path, file):
                    address = "/".join(map(segment, file.path.split("/")))
                    await self._fetch(f"{url}/files/{address}", path, file, told)
                told(file, file.bytes)
        return paths
