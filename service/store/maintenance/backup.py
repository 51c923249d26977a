"""Copies of a store that is in use: ``jeep backup`` and ``jeep restore``.

Only the order matters in which files are read: jobs, then head with its reflog, the names and the
list of versions, then everything that these need.  A job that is copied as unfinished may have a
version already, or be head; a worker completes it, as after a crash.  The other way round, a
finished job or a head whose version is missing, or a finished job that head does not know, cannot
occur.

A backup is a folder: ``files/`` as they are in the store, and ``backup.json``, which lists them
with their hashes and is written last.  Backing up into the same folder again copies only new files.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, Field
from ulid import ULID

from jeep_core.storage.looking import ABSENT, LOST_AND_FOUND, listed, present, walked
from service.contracts.jobs import TERMINAL, Job, now
from service.contracts.schemas import TensorRef
from service.contracts.schemas.versions import Head
from service.store.base.files import FOLDER
from service.store.errors import CorruptFile, CorruptTensor, StoreError, UnknownVersion
from service.store.exports import FOLDER as EXPORTS
from service.store.files import (
    encode,
    fsync_folder,
    held,
    is_unfinished,
    read,
    replace,
)
from service.store.index.database import FOLDER as INDEX
from service.store.journal import OPEN
from service.store.maintenance.disk import BEAT, HELD
from service.store.store import Store
from service.store.targets.records import FOLDER as TARGETS
from service.store.tensors import Tensors

LIST = "backup.json"
UNFINISHED = "a-restore-is-unfinished"
"""Keeps a half restored folder from being taken for a store; first in order, so it is named."""

_LOCK, _FILES, _NEW = "lock", "files", "new"
_IN_A_BACKUP = {LIST, _LOCK, _FILES, _NEW, LOST_AND_FOUND}
_NOT_COPIED = (
    "valkey", "locks", "staging", EXPORTS, "id.json", TARGETS, INDEX, HELD, BEAT, LOST_AND_FOUND
)  # fmt: skip
"""Targets stay with the store: a copy of it must not push to the servers of the original."""
_UNCHANGING = ("tensors/", "versions/", f"{FOLDER}/")
_POINTERS = ("head.json", "reflog.jsonl", "names.json")
_IN_ORDER = ("jobs", "idempotency", "versions", "tensors")
_CHUNK = 1 << 20


class BackupError(StoreError):
    """A backup cannot be made or restored: the message says why."""


class Entry(BaseModel):
    """One file: SHA-256 of its content, size in bytes, time of its last change in ns."""

    sha256: str
    size: int
    mtime_ns: int


class Backup(BaseModel):
    """``backup.json``.  ``files`` by their path in the store; ``damaged`` ones are left out.

    ``damaged_versions``: the errors of versions that cannot be read, by id.  Their remaining files
    are copied unchanged: the restored store works around them as this one does.
    """

    store_id: str
    made_at: datetime
    head: str
    weights_sha256: str
    files: dict[str, Entry]
    damaged: list[str]
    damaged_versions: dict[str, str] = Field(default_factory=dict)


@dataclass(frozen=True)
class BackupRun:
    """A completed backup; ``new_bytes`` of its bytes were copied by this run."""

    backup: Backup
    new_bytes: int


class _Identity(BaseModel):
    id: str


def back_up(store: Store, target: Path) -> BackupRun:
    """Copy a store, even while it is in use, into the folder ``target``.

    Raises:
        BackupError: ``target`` holds something else, or head's version is damaged.
        OSError: a file cannot be read or written now; one that cannot be read is never left out.
        StoreBusy: another backup into ``target`` is being made.
    """
    if target.resolve().is_relative_to(store.root.resolve()):
        raise BackupError(f"{target} lies in the store")
    target.mkdir(parents=True, exist_ok=True)
    strangers = {entry.name for entry in target.iterdir()} - _IN_A_BACKUP
    if strangers:
        raise BackupError(f"{target} is not empty and no backup (it holds {min(strangers)})")
    with held(target / _LOCK, "another backup"):
        want_head(store)
        earlier = read(target / LIST, Backup)
        if earlier is not None and earlier.store_id != store.id:
            raise BackupError(f"{target} is a backup of another store ({earlier.store_id})")
        copy = _Copy(store, target, earlier.files if earlier else {})
        head = copy.read_all()
        copy.check_head(head.version)
        backup = Backup(
            store_id=store.id,
            made_at=now(),
            head=head.version,
            weights_sha256=store.versions.read(head.version).weights_sha256,
            files=copy.files,
            damaged=copy.damaged,
            damaged_versions=store.versions.damaged(),
        )
        copy.put_into_place()
        replace(target / LIST, encode(backup))
    return BackupRun(backup, copy.new_bytes)


def want_head(store: Store) -> None:
    """Mark head's tensors to be kept, even when head moves on.

    Raises:
        BackupError: its manifest is damaged.
    """
    head = store.head.read().version
    try:
        store.versions.want(head)
    except (CorruptFile, UnknownVersion) as error:
        raise BackupError(f"head ({head}) is damaged: {error}; roll back, then try again") from None


def restore(source: Path, root: Path) -> Backup:
    """Make a store in the empty or missing folder ``root``; every file is verified.

    The store gets a new id, so it may share a queue server with the old one.  Its
    worker runs the jobs that had not ended.

    Raises:
        BackupError: ``source`` holds no finished backup, or ``root`` is not empty.
        CorruptFile: a file differs from what was backed up.
    """
    backup = read(source / LIST, Backup)
    if backup is None:
        raise BackupError(f"{source} holds no finished backup ({LIST} is missing)")
    root.mkdir(parents=True, exist_ok=True)
    strangers = {entry.name for entry in root.iterdir()} - {LOST_AND_FOUND}
    if strangers and UNFINISHED not in strangers:
        raise BackupError(f"{root} is not empty (it holds {min(strangers)})")
    replace(root / UNFINISHED, b"")
    replace(root / "id.json", encode(_Identity(id=str(ULID()))))
    for name in sorted(backup.files, key=lambda name: name == "format.json"):
        place = _inside(root, name)
        if _copy(_inside(source / _FILES, name), place).sha256 != backup.files[name].sha256:
            raise CorruptFile(f"{source / _FILES / name} is damaged: it is not what was backed up")
    _mark_open_jobs(root / "jobs")
    _fsync_folders(root)
    (root / UNFINISHED).unlink()
    fsync_folder(root)
    Store.open(root)
    return backup


class _Copy:
    """One run: missing files are copied into ``new/`` and moved when all have been read."""

    def __init__(self, store: Store, target: Path, earlier: dict[str, Entry]) -> None:
        self._store, self._target, self._earlier = store, target, earlier
        self._new = target / _NEW
        shutil.rmtree(self._new, ignore_errors=True)
        self._new.mkdir()
        self.files: dict[str, Entry] = {}
        self.damaged: list[str] = []
        self.new_bytes = 0

    def read_all(self) -> Head:
        """Read everything in the order that the module describes; return the copied head."""
        root = self._store.root
        self._add(*_names(root, "jobs"), *_names(root, "idempotency"))
        owned = self._with_owners(())
        with self._store.locked("head"):
            head = read(root / "head.json", Head)
            if head is None:
                raise BackupError("head.json is missing: start the worker, which makes it again")
            self._add(*_POINTERS)
            # while head cannot move: no record may say that a later commit succeeded
            versions = self._with_owners(owned)
        self._add(*versions)
        self._add(*_names(root, "tensors"))
        # tensors dropped meanwhile can be rebuilt from files written before that
        self._add(*(name.replace("manifest.json", "thin.json") for name in versions))
        self._add(*_names(root, "tensors"))
        rest = (name for name in _names(root) if name.split("/")[0] not in _IN_ORDER)
        self._add(*(name for name in rest if name not in _POINTERS))
        return head

    def _with_owners(self, known: Collection[str]) -> list[str]:
        """The existing versions; the records of jobs that own those not in ``known`` are read.

        A job that was accepted after the jobs were listed has a record once it has a version.
        The job of a damaged version cannot be known, but such a version is not recent.
        """
        versions = list(_names(self._store.root, "versions"))
        for name in versions:
            version = name.split("/")[1]
            if name in known or not self._store.versions.is_readable(version):
                continue
            owner = self._store.versions.read(version).job_id
            self._add(*([f"jobs/{owner}.json"] if owner else []))
        return versions

    def check_head(self, version: str) -> None:
        """Raise :class:`BackupError` unless head's tensors are copied."""
        for ref in self._store.versions.read(version).tensors:
            name = self._store.tensors.path(ref.sha256).relative_to(self._store.root).as_posix()
            if name not in self.files:
                raise BackupError(f"head ({version}) is damaged: {name}; roll back, then try again")

    def put_into_place(self) -> None:
        """Make the folder hold exactly these files; until then it is not a backup."""
        (self._target / LIST).unlink(missing_ok=True)
        fsync_folder(self._target)
        for name in _names(self._new):
            place = self._target / _FILES / name
            place.parent.mkdir(parents=True, exist_ok=True)
            (self._new / name).replace(place)
        for name in list(_names(self._target / _FILES)):
            if name not in self.files:
                (self._target / _FILES / name).unlink()
        shutil.rmtree(self._new)
        _fsync_folders(self._target)

    def _add(self, *names: str) -> None:
        for name in names:
            if name in self.files or name in self.damaged:
                continue
            try:
                self._add_one(name)
            except FileNotFoundError:  # removed since it was listed, so nothing needs it
                continue

    def _add_one(self, name: str) -> None:
        source = self._store.root / name
        known = self._earlier.get(name)
        if known is not None and name.startswith(_UNCHANGING) and self._is_there(name, known):
            self.files[name] = known
            return
        entry = _copy(source, self._new / name)
        if name.startswith("tensors/") and not self._is_whole(source.stem):
            (self._new / name).unlink()
            self.damaged.append(name)
            return
        self.files[name] = entry
        self.new_bytes += entry.size

    def _is_there(self, name: str, known: Entry) -> bool:
        status = (self._store.root / name).stat()
        kept = self._target / _FILES / name
        size = kept.stat().st_size if present(kept) else None
        return size == known.size == status.st_size and known.mtime_ns == status.st_mtime_ns

    def _is_whole(self, sha256: str) -> bool:
        """Whether a tensor's bytes, as they were copied, have the hash that names them."""
        ref = TensorRef(name=sha256, dtype="U8", shape=[], sha256=sha256)
        try:
            for _ in Tensors(self._new).chunks(ref):
                pass
        except CorruptTensor:
            return False
        return True


def _names(root: Path, folder: str = ".") -> Iterator[str]:
    """Paths below ``root`` of the files that are copied; those of a folder that is there."""
    for path, folders, files in walked(root / folder, onerror=_not_left_out):
        inner = Path(path).relative_to(root)
        folders[:] = sorted(f for f in folders if (inner / f).as_posix() not in _NOT_COPIED)
        for file in sorted(files):
            name = (inner / file).as_posix()
            left_out = is_unfinished(file) or file.endswith(".open")
            if name not in _NOT_COPIED and not left_out:
                yield name


def _not_left_out(error: OSError) -> None:
    """Raise the error of a folder that cannot be looked at now, unless there is none any more."""
    if not isinstance(error, ABSENT):
        raise error


def _copy(source: Path, place: Path) -> Entry:
    """Copy and fsync a file with its time of change and mode; return its entry."""
    place.parent.mkdir(parents=True, exist_ok=True)
    digest, size = hashlib.sha256(), 0
    with source.open("rb") as original, place.open("wb") as copy:
        status = os.fstat(original.fileno())
        changed = status.st_mtime_ns
        os.fchmod(copy.fileno(), stat.S_IMODE(status.st_mode))
        while chunk := original.read(_CHUNK):
            digest.update(chunk)
            copy.write(chunk)
            size += len(chunk)
        copy.flush()
        os.fsync(copy.fileno())
    os.utime(place, ns=(changed, changed))
    return Entry(sha256=digest.hexdigest(), size=size, mtime_ns=changed)


def _inside(folder: Path, name: str) -> Path:
    """``folder/name``; :class:`BackupError` for a name in a list that leads out of it."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise BackupError(f"{LIST} names a file outside the backup: {name}")
    return path


def _mark_open_jobs(folder: Path) -> None:
    """Write the marks by which unfinished jobs are found."""
    (folder / OPEN).mkdir(parents=True, exist_ok=True)
    for path in listed(folder, "*.json"):
        try:
            job = read(path, Job)
        except CorruptFile:  # it was damaged when it was copied
            continue
        if job is not None and job.status not in TERMINAL:
            (folder / OPEN / f"{path.stem}.open").touch()


def _fsync_folders(root: Path) -> None:
    for path, _, _ in walked(root, onerror=_not_left_out):
        fsync_folder(Path(path))
