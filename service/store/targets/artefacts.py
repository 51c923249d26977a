"""Artefacts: folders that targets read, ``targets/artefacts/<version>-<hash>.<format>``.

A folder appears under its name when it is whole, never changes, and is removed when no target may
still read it.  The hash of the weights is in the name: a version of another store, or of this one
before it was restored from a backup, is another folder.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from uuid import uuid4

from jeep_core.storage.looking import files_below, is_folder, listed
from service.contracts.schemas import Manifest
from service.store.files import TEMPORARY, fsync_folder
from service.store.targets.records import FOLDER

ARTEFACTS = "artefacts"


class Artefacts:
    """The artefacts of a store (``store.artefacts``).  Only the worker writes and removes them."""

    def __init__(self, root: Path) -> None:
        self.folder = root / FOLDER / ARTEFACTS

    def name(self, manifest: Manifest, format: str) -> str:
        """The name of a version's artefact in a format."""
        return f"{manifest.id}-{manifest.weights_sha256[:12]}.{format}"

    def path(self, name: str) -> Path:
        """The path of an artefact, whether it is there or not."""
        return self.folder / name

    def put(self, name: str, write: Callable[[Path], object]) -> Path:
        """The artefact, which ``write`` writes into an empty folder if it is not there yet."""
        path = self.path(name)
        if is_folder(path):
            return path
        self.folder.mkdir(parents=True, exist_ok=True)
        aside = self.folder / f".{name}.{uuid4().hex}{TEMPORARY}"
        try:
            aside.mkdir()
            write(aside)
            for file in files_below(aside):
                _fsync(Path(file.path))
            fsync_folder(aside)
            aside.rename(path)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        fsync_folder(self.folder)
        return path

    def drop(self, name: str) -> None:
        """Remove an artefact; a reader sees all of it or nothing."""
        path = self.path(name)
        aside = path
        if not name.startswith("."):
            aside = path.with_name(f".{name}.{uuid4().hex}{TEMPORARY}")
            path.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)

    def sweep(self, wanted: Collection[str]) -> list[str]:
        """Remove all artefacts but the wanted ones, unfinished ones too; the names removed."""
        if not is_folder(self.folder):
            return []
        gone = [path for path in listed(self.folder) if path.name not in wanted]
        for path in gone:
            self.drop(path.name)
        return [path.name for path in gone]


def _fsync(file: Path) -> None:
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
