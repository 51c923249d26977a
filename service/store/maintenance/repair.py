"""``jeep store verify --repair``: damaged versions are moved aside.

Nothing is deleted: a version is moved unchanged to ``damaged/<id>`` in the store, with the tensors
that its manifest, as far as it can be read, names and nothing else does.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from jeep_core.storage.looking import is_folder, listed, present
from service.store.errors import CorruptFile
from service.store.files import NOT_A_FILE, fsync_folder
from service.store.maintenance.retention import referenced_tensors
from service.store.store import Store
from service.store.versions import BASE, SET_ASIDE

_HASH = re.compile(rb'"([0-9a-f]{64})"')
_PARENT = re.compile(rb'"parent":"(v[0-9]+)"')


@dataclass(frozen=True)
class Repair:
    """The outcome for a damaged version: the folder it is in now, or why it stays."""

    version: str
    folder: str | None = None
    tensors: int = 0
    why_not: str = ""


def repair(store: Store) -> list[Repair]:
    """Move aside every damaged version that nothing needs, newest first.

    A version stays if it is head, has a name, or is an ancestor of another version or of a draft
    of a job that has not ended.

    Raises:
        StoreBusy: a worker is running.
        StoreError: head, names or another record that shows what is needed is damaged.
        OSError: a record cannot be read now, so that it is not known whether it is damaged.
    """
    with store.worker_lock():
        (store.root / SET_ASIDE).mkdir(exist_ok=True)
        with store.locked("head", "names"):
            return _Repairs(store).all()


class _Repairs:
    def __init__(self, store: Store) -> None:
        self._store, self._root = store, store.root
        jobs = store.journal.unfinished()
        self._needed = {store.head.read().version: "it is head", BASE: "it is the base"}
        for name, version in store.names.all().items():
            self._needed.setdefault(version, f"it has the name {name!r}")
        drafts = [draft for job in jobs for draft in store.drafts.of_job(job.id)]
        for manifest in (*store.versions.all(), *drafts):
            if manifest.parent is not None:
                self._needed.setdefault(manifest.parent, f"{manifest.id} is built on it")
        self._named = self._hashes_of_others()

    def all(self) -> list[Repair]:
        """Handle all versions, newest first: the ancestors of one that stays must stay too."""
        done = []
        for version in self._store.versions.damaged():
            why = self._needed.get(version, "")
            if not why:
                done.append(self._moved(version))
                continue
            done.append(Repair(version, why_not=why))
            parent = _PARENT.search(self._bytes(version))
            if parent:
                self._needed.setdefault(parent.group(1).decode(), f"{version} is built on it")
            else:
                self._keep_older(version)
        return done

    def _keep_older(self, version: str) -> None:
        """Keep all older versions: the ancestors of a version without a manifest are unknown."""
        for other in self._store.versions.damaged():
            if int(other[1:]) < int(version[1:]):
                self._needed.setdefault(other, f"{version}, which stays, may be built on it")

    def _hashes_of_others(self) -> set[str]:
        try:
            return {ref.sha256 for ref in referenced_tensors(self._store)}
        except CorruptFile:  # a damaged thin.json: it may name any of them
            return {
                path.stem for path in listed(self._root / "tensors", "*.safetensors", within="*")
            }

    def _bytes(self, version: str) -> bytes:
        """A manifest, damaged as it is; empty where there is none."""
        try:
            return (self._root / "versions" / version / "manifest.json").read_bytes()
        except (FileNotFoundError, *NOT_A_FILE):
            return b""

    def _moved(self, version: str) -> Repair:
        aside = self._root / SET_ASIDE
        target, number = aside / version, 1
        while present(target):
            number += 1
            target = aside / f"{version}-{number}"
        hashes = {found.decode() for found in _HASH.findall(self._bytes(version))} - self._named
        files = [self._store.tensors.path(sha256) for sha256 in sorted(hashes)]
        there = [path for path in files if present(path)]
        (self._root / "versions" / version).rename(target)
        fsync_folder(self._root / "versions")
        if there and is_folder(target):
            (target / "tensors").mkdir(exist_ok=True)
            for path in there:
                path.rename(target / "tensors" / path.name)
            fsync_folder(target)
        fsync_folder(aside)
        where = Path(SET_ASIDE, target.name).as_posix()
        return Repair(version, where, len(there))
