"""Reports: the files that the result of a job names, stored with their hashes.

``reports/<job id>/hashes.json`` is written last, when the report is complete.  Reports of earlier
releases have none and are read as they are.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from pydantic import BaseModel

from jeep_core.storage.looking import is_folder, listed
from service.store.errors import CorruptFile
from service.store.files import TEMPORARY, difference, encode, inside, read, replace, sha256_of

HASHES = "hashes.json"


class ReportHashes(BaseModel):
    """``hashes.json``: file name → SHA-256."""

    files: dict[str, str]


class Reports:
    """The reports of a store (``store.reports``): ``reports/<job id>/``."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def folder(self, job_id: str) -> Path:
        """The folder of the files that a job's result names; it is created if missing.

        ValueError for an id that leads out of the store.
        """
        path = inside(self._root / "reports", job_id)
        path.mkdir(exist_ok=True)
        return path

    def drop(self, job_id: str) -> None:
        """Remove a report, if there is one."""
        shutil.rmtree(self._report(job_id), ignore_errors=True)

    def seal(self, job_id: str) -> None:
        """Record the hashes of a complete report; does nothing if the job has none."""
        folder = self._report(job_id)
        if is_folder(folder):
            for left in listed(folder, f".*{TEMPORARY}"):  # left by an attempt that was killed
                left.unlink()
            names = sorted(path.name for path in folder.iterdir() if path.name != HASHES)
            found = {name: sha256_of(folder / name) for name in names}
            replace(folder / HASHES, encode(ReportHashes(files=found)))

    def unseal(self, job_id: str) -> None:
        """Forget the hashes of a report that is about to be written again."""
        (self._report(job_id) / HASHES).unlink(missing_ok=True)

    def path(self, job_id: str, name: str) -> Path:
        """The path of a report's file, verified by its hash.

        Raises:
            CorruptFile: the file is damaged or missing.
        """
        folder = self._report(job_id)
        hashes = read(folder / HASHES, ReportHashes)
        what = difference(folder / name, hashes.files.get(name) if hashes else None)
        if what:
            raise CorruptFile(f"{folder / name} {what}")
        return folder / name

    def _report(self, job_id: str) -> Path:
        return self._root / "reports" / job_id
