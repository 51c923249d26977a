"""Calls for exports: versions as files for other programs."""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import httpx

from jeep_core.errors import Coded
from jeep_core.exports.folders import DamagedExport, read_record
from jeep_core.spec.facts import fill
from service.client.transport import RETRIES, Transport, check, given, segment
from service.contracts.schemas import JobOut
from service.contracts.schemas.exports import Export, ExportFile

OnFile = Callable[[ExportFile, int], None]
"""Told of a file and how many of its bytes are there."""
PART, LOCK = ".part", ".jeep-export.lock"
"""Ending of what is half there, and the file that one download into a folder holds."""
MARGIN, STEPS = 6.0, 60
"""Of an edit that is to survive quantisation: nats, and passes at most."""
_CHUNK = 2**20


class DamagedDownload(Coded, Exception):
    """A file arrived with another hash, twice."""

    code = "corrupt_file"


class ExportCalls(Transport):
    """``/exports``."""

    def submit_export(
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
        return self._queued(url, {"format": format, **given(options)}, idempotency_key)

    def exports(self) -> Iterator[dict[str, Any]]:
        """Exports, newest first, without their files."""
        return self._pages("/exports")

    def export_result(self, export_id: str) -> Export:
        """The status of an export and, once it has ended, its files with their hashes."""
        return self._model(Export, "GET", f"/exports/{segment(export_id)}")

    def export_proof(self, export_id: str) -> dict[str, Any]:
        """The whole proof sheet: every fact, with the answers of the version and of the files."""
        found: dict[str, Any] = self._request("GET", f"/exports/{segment(export_id)}/proof").json()
        return found

    def strengthen_export(
        self, export_id: str, margin: float = MARGIN, *, idempotency_key: str | None = None
    ) -> JobOut:
        """Edit the facts that an export has lost again, with a margin; the new version can stay.

        ``margin``: nats by which every token of an answer is to lead before its fact stops.  The
        rest of the hyper-parameters is that of the exported version's own edit.  The exported
        version must be head.  Safe to repeat: a key is generated where none is given.

        Raises:
            ApiError: there is no such export, or its version is not head any more.
            ValueError: the export has lost nothing.
        """
        lost = {
            (line["prompt"], line["target_new"])
            for line in self.export_proof(export_id)["asked"]
            if line["holds_in_version"] and not line["holds"]
        }
        version = self.export_result(export_id).version
        live = self._pages("/facts", {"version": version})
        facts = [
            {"subject": f["subject"], "prompt": f["prompt"], "target_new": f["target_new"]}
            for f in live
            if (fill(f["prompt"], f["subject"]), f["target_new"]) in lost
        ]
        if not facts:
            raise ValueError(f"{export_id} has lost no fact that could be edited again")
        shown = self._request("GET", f"/snapshots/{segment(version)}").json()
        edit = self._request("GET", f"/edits/{segment(shown['edit_id'])}").json()
        hparams = {**edit["hparams"], "margin": margin}
        hparams["n_steps"] = max(STEPS, hparams.get("n_steps", STEPS))
        body = {"facts": facts, "editor": edit["editor"], "hparams": hparams, "parent": version}
        return self._queued("/edits", body, idempotency_key)

    def remove_export(self, export_id: str) -> None:
        """Remove the files of an export; what it was, and its proof, stay."""
        self._request("DELETE", f"/exports/{segment(export_id)}", again=True)

    def download_export(
        self, export_id: str, folder: Path, on_file: OnFile = lambda file, done: None
    ) -> list[Path]:
        """Write the files of an export into a folder, and compare each with its hash.

        Files that are there already, whole, are not fetched again, and a part of one is
        completed: call it again after it broke off.  Files of another export that was fetched
        into this folder before are removed, and nothing else.

        Raises:
            ApiError: there is no such export, it has not ended, or its files have been removed.
            DamagedDownload: a file arrived damaged, also when it was fetched again.
            OSError: a file cannot be written, its name leads out of the folder, or another
                download into the folder is running.
        """
        result = self.export_result(export_id).result
        url = f"/exports/{segment(export_id)}"
        if result is None:  # the answer says why
            self._request("GET", f"{url}/proof")
        files = result.files if result else []
        paths = [inside(folder, file.path) for file in files]
        with _alone(folder):
            if result is not None:
                _remove_former(folder, result.files)
            for path, file in zip(paths, files, strict=True):
                path.parent.mkdir(parents=True, exist_ok=True)
                if not _is_whole(path, file):
                    address = "/".join(map(segment, file.path.split("/")))
                    self._fetch(f"{url}/files/{address}", path, file, on_file)
                on_file(file, file.bytes)
        return paths

    def _fetch(self, url: str, path: Path, file: ExportFile, on_file: OnFile) -> None:
        """One file, from where an earlier try ended; a damaged one is fetched once more."""
        aside = path.with_name(path.name + PART)
        for _ in range(2):
            self._fill(url, aside, file, on_file)
            if _is_whole(aside, file):
                aside.replace(path)
                return
            aside.unlink()
        raise DamagedDownload(f"{path} arrived damaged twice: the service's own files may be")

    def _fill(self, url: str, aside: Path, file: ExportFile, on_file: OnFile) -> None:
        """Append to a part until it has the file's size; connections may break."""
        broken = 0
        while (done := aside.stat().st_size if aside.exists() else 0) < file.bytes:
            try:
                self._append(url, aside, file, done, on_file)
            except httpx.TransportError:
                broken = 0 if aside.exists() and aside.stat().st_size > done else broken + 1
                if broken >= RETRIES:
                    raise
                time.sleep(0.2 * 2**broken)
        aside.touch()  # of an empty file

    def _append(self, url: str, aside: Path, file: ExportFile, done: int, on_file: OnFile) -> None:
        etag = f'"{file.sha256}"'
        headers = {"Range": f"bytes={done}-", "If-Range": etag} if done else {}
        headers["Accept-Encoding"] = "identity"
        with self._http.stream("GET", url, headers=headers) as response:
            check(response)
            mode = "ab" if response.status_code == httpx.codes.PARTIAL_CONTENT else "wb"
            with aside.open(mode) as out:
                done = out.tell()
                for chunk in response.iter_bytes(_CHUNK):
                    out.write(chunk)
                    done += len(chunk)
                    if done < file.bytes:  # its end is told when its hash has been compared
                        on_file(file, done)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold a folder's lock, which is not there afterwards; the folder is made if need be.

    Raises:
        OSError: another download holds it, or the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _busy(folder) from None
        # one that ended between the two lines above has removed the file that is locked here
        if not path.exists() or not os.path.samestat(path.stat(), os.fstat(file.fileno())):
            raise _busy(folder)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _busy(folder: Path) -> OSError:
    return OSError(
        f"another download into {folder} is running: wait until it has ended, or name another "
        "folder"
    )


def inside(folder: Path, name: str) -> Path:
    """``folder/name``, for a name that stays in the folder.

    Raises:
        OSError: it does not.
    """
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\\" in name:
        raise OSError(f"a file outside the folder is named: {name!r}")
    return folder.joinpath(*parts)


def _remove_former(folder: Path, files: Sequence[ExportFile]) -> None:
    """Remove what an earlier export has written into a folder and the new one does not have.

    The earlier export's record says what that is; nothing else is touched.
    """
    try:
        former = [one["path"] for one in read_record(folder)["files"]]
    except DamagedExport:  # no export was here, or what it wrote is not known
        return
    for name in set(former) - {one.path for one in files}:
        inside(folder, name).unlink(missing_ok=True)


def _is_whole(path: Path, file: ExportFile) -> bool:
    """Whether a file is there with its size and hash."""
    if not path.is_file() or path.stat().st_size != file.bytes:
        return False
    with path.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest() == file.sha256
