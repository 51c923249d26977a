"""Drafts: versions that a job has computed, invisible to others until all of them are ready."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from service.contracts.schemas import Manifest
from service.store.errors import CorruptFile
from service.store.files import encode, read, replace

log = logging.getLogger(__name__)


class Drafts:
    """``work/<job id>/drafts/<version id>.json``; tensors are stored like those of versions."""

    root: Path

    def save_draft(self, manifest: Manifest) -> None:
        """Keep a computed version for its job; its tensors must be stored before."""
        folder = self._draft_folder(str(manifest.job_id))
        folder.mkdir(parents=True, exist_ok=True)
        replace(folder / f"{manifest.id}.json", encode(manifest))

    def drafts(self, job_id: str) -> list[Manifest]:
        """The drafts of a job so far, in no order; unreadable ones are left out."""
        found = []
        for path in self._draft_folder(job_id).glob("v*.json"):
            try:
                draft = read(path, Manifest)
            except CorruptFile as error:
                log.error("%s", error)
                continue
            if draft is not None:
                found.append(draft)
        return found

    def drop_drafts(self, job_id: str) -> None:
        """Remove a job's drafts; those that became versions stay versions."""
        shutil.rmtree(self._draft_folder(job_id).parent, ignore_errors=True)

    def _draft_folder(self, job_id: str) -> Path:
        return self.root / "work" / job_id / "drafts"
