"""Calls for exports: versions as files for other programs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
from pydantic import BaseModel

from jeep_core.spec.facts import fill
from service.client.asynchronous.aside import aside, sleep
from service.client.asynchronous.transport import RETRIES, Transport
from service.client.errors import DamagedDownload, NothingLost, Unreachable
from service.client.files import PART, OnFile, StrPath, alone, inside, is_whole, remove_former
from service.client.requests import given, segment
from service.contracts.schemas import JobOut
from service.contracts.schemas.exports import Export, ExportFile, ProofSheet
from service.contracts.schemas.jobs import ExportSummary

MARGIN, STEPS = 6.0, 60
"""Of an edit that is to survive quantisation: nats, and passes at most."""
_CHUNK = 2**20


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
        folder, told = Path(folder), on_file or _untold
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

    async def _fetch(self, url: str, path: Path, file: ExportFile, on_file: OnFile) -> None:
        """One file, from where an earlier try ended; a damaged one is fetched once more."""
        part = path.with_name(path.name + PART)
        for _ in range(2):
            await self._fill(url, part, file, on_file)
            if await aside(is_whole, part, file):
                part.replace(path)
                return
            part.unlink()
        raise DamagedDownload(f"{path} arrived damaged twice: the service's own files may be")

    async def _fill(self, url: str, part: Path, file: ExportFile, on_file: OnFile) -> None:
        """Append to a part until it has the file's size; connections may break."""
        broken = 0
        while (done := part.stat().st_size if part.exists() else 0) < file.bytes:
            try:
                await self._append(url, part, file, done, on_file)
            except Unreachable:
                broken = 0 if part.exists() and part.stat().st_size > done else broken + 1
                if broken >= RETRIES:
                    raise
                await sleep(0.2 * 2**broken)
        part.touch()  # of an empty file

    async def _append(
        self, url: str, part: Path, file: ExportFile, done: int, on_file: OnFile
    ) -> None:
        etag = f'"{file.sha256}"'
        headers = {"Range": f"bytes={done}-", "If-Range": etag} if done else {}
        headers["Accept-Encoding"] = "identity"
        async with self._answering("GET", url, headers=headers) as response:
            mode = "ab" if response.status_code == httpx.codes.PARTIAL_CONTENT else "wb"
            with part.open(mode) as out:
                done = out.tell()
                async for chunk in response.aiter_bytes(_CHUNK):
                    await aside(out.write, chunk)
                    done += len(chunk)
                    if done < file.bytes:  # its end is told when its hash has been compared
                        on_file(file, done)


def _untold(file: ExportFile, done: int) -> None:
    """Of a file that nobody asked to be told of."""
