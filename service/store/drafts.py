"""Drafts: versions that a job has computed, invisible to others until all of them are ready."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from jeep_core.storage.looking import listed
from service.contracts.schemas import Manifest
from service.store.errors import CorruptFile
from service.store.files import encode, inside, read, replace

log = logging.getLogger(__name__)


class Drafts:
    """The drafts of a store (``store.drafts``): ``work/<job id>/drafts/<version id>.json``.

    Their tensors are stored like those of versions.  The folder ``work/<job id>`` also has the
    other partial results of an unfinished job.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def work_folder(self, job_id: str) -> Path:
        """The folder of an unfinished job's partial results; it is created if missing.

        ValueError for an id that leads out of the store.
        """
        path = inside(self._root / "work", job_id)
        path.mkdir(exist_ok=True)
        return path

    def save(self, manifest: Manifest) -> None:
        """Keep a computed version for its job; its tensors must be stored before."""
        folder = self._draft_folder(str(manifest.job_id))
        folder.mkdir(parents=True, exist_ok=True)
        replace(folder / f"{manifest.id}.json", encode(manifest))

    def of_job(self, job_id: str) -> list[Manifest]:
        """The drafts of a job so far, in no order; unreadable ones are left out."""
        found = []
        for path in listed(self._draft_folder(job_id), "v*.json"):
            try:
                draft = read(path, Manifest)
            except CorruptFile as error:
                log.error("%s", error)
                continue
            if draft is not None:
                found.append(draft)
        return found

    def drop(self, job_id: str) -> None:
        """Remove a job's partial results; drafts that became versions stay versions."""
        shutil.rmtree(self._draft_folder(job_id).parent, ignore_errors=True)

    def _draft_folder(self, job_id: str) -> Path:
        return self._root / "work" / job_id / "drafts"
