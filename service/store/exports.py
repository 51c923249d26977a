"""Exported versions: ``exports/<job id>/``, each a folder that is whole or absent.

``jeep_core.exports.folders`` writes them aside, as ``<job id>.….partial``, with a record of their
files' hashes.  They can be made again, so they are in no backup, and only the newest are kept.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from jeep_core.exports.folders import PARTIAL, remove_partials
from jeep_core.storage.looking import is_folder, listed
from service.store.errors import StoreError
from service.store.files import fsync_folder, inside, locked

FOLDER = "exports"
KEPT = ".kept"
_USER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class ExportInUse(StoreError):
    """The folder of an export is in use where it is."""

    code = "export_in_use"


class Exports:
    """The exports of a store (``store.exports``).

    A program that uses a folder in place (a server that has loaded an adapter from it) has it
    kept: neither retention nor a caller removes it then.
    """

    def __init__(self, root: Path) -> None:
        self._folder = root / FOLDER
        self._lock = root / "locks" / FOLDER

    def path(self, job_id: str) -> Path:
        """The folder of an export, which need not be there.

        ValueError for an id that leads out of the store.
        """
        return inside(self._folder, job_id)

    def is_there(self, job_id: str) -> bool:
        """Whether an export is complete and has not been removed."""
        return is_folder(self.path(job_id))

    def all(self) -> list[str]:
        """The jobs whose exports are there, newest first."""
        return sorted((p.name for p in self._folders() if "." not in p.name), reverse=True)

    def keep(self, job_id: str, user: str) -> Path:
        """Keep an export for ``user`` (letters, digits, ``.``, ``_``, ``-``); its folder.

        Raises:
            FileNotFoundError: it is not there any more.
        """
        mark = self._mark(job_id, user)
        with locked(self._lock):
            if not self.is_there(job_id):
                raise FileNotFoundError(f"the files of {job_id} have been removed: export again")
            mark.parent.mkdir(exist_ok=True)
            mark.touch()
            fsync_folder(mark.parent)
        return self.path(job_id)

    def release(self, job_id: str, user: str) -> None:
        """End what `keep` began; nothing happens if it has ended."""
        mark = self._mark(job_id, user)
        with locked(self._lock):
            mark.unlink(missing_ok=True)
            if is_folder(mark.parent) and not any(mark.parent.iterdir()):
                mark.parent.rmdir()

    def kept_by(self, job_id: str) -> list[str]:
        """Who uses an export where it is."""
        folder = self.path(job_id + KEPT)
        return sorted(p.name for p in folder.iterdir()) if is_folder(folder) else []

    def remove(self, job_id: str) -> bool:
        """Remove an export; False if it was not there.

        Raises:
            ExportInUse: somebody uses it where it is.
        """
        with locked(self._lock):
            if users := self.kept_by(job_id):
                raise ExportInUse(
                    f"the files are in use by {', '.join(users)}: end that first, then remove them"
                )
            return self._removed(job_id)

    def drop(self, job_id: str) -> None:
        """Remove all that a job which did not succeed has written."""
        remove_partials(self.path(job_id))
        with locked(self._lock):
            self._removed(job_id)

    def retire(self, newest: int) -> list[str]:
        """Remove all but the ``newest`` exports and those in use; their jobs."""
        with locked(self._lock):
            old = [job for job in self.all()[newest:] if not self.kept_by(job)]
            return [job for job in old if self._removed(job)]

    def leftovers(self, is_orphan: Callable[[str], bool], unfinished: set[str]) -> Iterator[Path]:
        """Folders of jobs that have ended without success, and parts of those that are over."""
        for path in self._folders():
            job_id = path.name.partition(".")[0]
            if path.name.endswith(PARTIAL):
                if job_id not in unfinished:
                    yield path
            elif path.name.endswith(KEPT):
                if not self.is_there(job_id):
                    yield path
            elif is_orphan(job_id):
                yield path

    def _removed(self, job_id: str) -> bool:
        path = self.path(job_id)
        if not is_folder(path):
            return False
        # out of sight at once, so that nobody finds a part of it
        gone = path.with_name(path.name + PARTIAL)
        shutil.rmtree(gone, ignore_errors=True)
        path.rename(gone)
        fsync_folder(self._folder)
        shutil.rmtree(gone, ignore_errors=True)
        return True

    def _folders(self) -> list[Path]:
        return [path for path in listed(self._folder) if is_folder(path)]

    def _mark(self, job_id: str, user: str) -> Path:
        if not _USER.fullmatch(user):
            raise ValueError(f"{user!r} cannot be the name of a user of an export")
        return self.path(job_id + KEPT) / user
