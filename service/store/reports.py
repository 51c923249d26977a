"""Reports: the files that the result of a job names, stored with their hashes.

``reports/<job id>/hashes.json`` is written last, when the report is complete.  Reports of earlier
releases have none and are read as they are.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel

from service.store.errors import CorruptFile
from service.store.files import TEMPORARY, difference, encode, read, replace, sha256_of

HASHES = "hashes.json"


class ReportHashes(BaseModel):
    """``hashes.json``: file name → SHA-256."""

    files: dict[str, str]


class Reports:
    """The reports of a store."""

    root: Path

    def seal_report(self, job_id: str) -> None:
        """Record the hashes of a complete report; does nothing if the job has none."""
        folder = self._report(job_id)
        if folder.is_dir():
            for left in folder.glob(f".*{TEMPORARY}"):  # left by an attempt that was killed
                left.unlink()
            names = sorted(path.name for path in folder.iterdir() if path.name != HASHES)
            found = {name: sha256_of(folder / name) for name in names}
            replace(folder / HASHES, encode(ReportHashes(files=found)))

    def unseal_report(self, job_id: str) -> None:
        """Forget the hashes of a report that is about to be written again."""
        (self._report(job_id) / HASHES).unlink(missing_ok=True)

    def report_file(self, job_id: str, name: str) -> Path:
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
        return self.root / "reports" / job_id
