"""``Store``: opens the directory, binds it to a model, publishes model data for the api."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from datetime import timedelta
from functools import cached_property
from itertools import chain
from pathlib import Path

from pydantic import BaseModel
from ulid import ULID

from service.contracts.jobs import TERMINAL, JobStatus
from service.contracts.schemas import Manifest, WorkerInfo
from service.store.api_keys import ApiKeys
from service.store.audit import AuditLog
from service.store.errors import CorruptFile, NotAStore, UnknownJob, WrongFormat, WrongModel
from service.store.files import TEMPORARY, create, encode, held, locked, read, replace
from service.store.maintenance.retention import Retention
from service.store.reports import Reports

log = logging.getLogger(__name__)

FORMAT = 1
PARTIAL = ".partial"
"""Suffix of what ``jeep_core.storage.files`` is writing."""
_FOLDERS = (
    "model", "base", "versions", "tensors", "jobs", "idempotency", "valkey", "locks", "staging",
    "work", "reports", "suites", "training", "keys",
)  # fmt: skip
_ABANDONED_S = 3600.0


class StoreFormat(BaseModel):
    """``format.json``."""

    format: int


class StoreIdentity(BaseModel):
    """``id.json``."""

    id: str


class StoreModel(BaseModel):
    """``model.json``."""

    model_hash: str


class Store(Retention, Reports, ApiKeys, AuditLog):
    """A store on disk.  Any process may read it and journal jobs.  Only the worker, while it holds
    :meth:`worker_lock`, may write tensors, versions and head or call :meth:`sweep`.
    """

    def __init__(self, root: Path, idempotency_hours: float = 24.0) -> None:
        self.root = root
        self.idempotency = timedelta(hours=idempotency_hours)
        self._manifests: dict[str, Manifest] = {}
        self._said: set[str] = set()

    @classmethod
    def open(cls, path: Path | str, *, idempotency_hours: float = 24.0) -> Store:
        """Open a store or create it in an empty or missing directory.

        Raises :class:`NotAStore` or :class:`WrongFormat`.
        """
        root = Path(path).absolute()
        if root.exists() and not root.is_dir():
            raise NotAStore(f"{root} is a file, not a directory")
        root.mkdir(parents=True, exist_ok=True)
        found = read(root / "format.json", StoreFormat)
        if found is None:
            strangers = {e.name for e in root.iterdir() if not e.name.startswith(".")}
            strangers -= {*_FOLDERS, "lost+found", "format.json", "id.json"}
            if strangers:
                raise NotAStore(f"{root} is not empty and no store (it holds {min(strangers)})")
        elif found.format != FORMAT:
            raise WrongFormat(f"{root} has format {found.format}, this program writes {FORMAT}")
        for name in _FOLDERS:
            (root / name).mkdir(exist_ok=True)
        if found is None:
            replace(root / "format.json", encode(StoreFormat(format=FORMAT)))
        with suppress(FileExistsError):
            if not (root / "id.json").exists():
                create(root / "id.json", encode(StoreIdentity(id=str(ULID()))))
        return cls(root, idempotency_hours)

    @cached_property
    def id(self) -> str:
        """The id of this store, which stays the same if the directory is moved."""
        identity = read(self.root / "id.json", StoreIdentity)
        if identity is None:
            raise CorruptFile(f"{self.root / 'id.json'} is missing")
        return identity.id

    def worker_lock(self) -> AbstractContextManager[None]:
        """Hold the store as its only worker; entering raises :class:`StoreBusy`."""
        return held(self.root / "locks" / "worker", "another worker")

    def serve_lock(self) -> AbstractContextManager[None]:
        """Hold the store for a whole ``jeep serve``; entering raises :class:`StoreBusy`."""
        return held(self.root / "locks" / "serve", "another jeep serve")

    def bind_model(self, model_hash: str) -> None:
        """Bind the store to a model permanently; :class:`WrongModel` if it has another."""
        path = self.root / "model.json"
        with locked(self.root / "locks" / "model"):
            bound = read(path, StoreModel)
            if bound is None:
                replace(path, encode(StoreModel(model_hash=model_hash)))
            elif bound.model_hash != model_hash:
                raise WrongModel(
                    f"{self.root} belongs to {self._made_for()} (hash {bound.model_hash[:12]}…), "
                    f"not to the model that was loaded ({model_hash[:12]}…): go back to that model "
                    "and type of weights (JEEP_MODEL, JEEP_DTYPE), or choose another JEEP_STORE "
                    "for this one"
                )

    def _made_for(self) -> str:
        """A description of the store's model, as far as it can be read."""
        try:
            info = self.model_info()
        except CorruptFile:
            info = None
        return f"{info.model} in {info.dtype}" if info else "another model"

    def publish_model(self, info: WorkerInfo, files: Mapping[str, bytes]) -> None:
        """Publish ``files`` (tokenizer, configuration) and then ``info``, for the api."""
        for name, data in files.items():
            replace(self.model_file(name), data)
        hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
        published = info.model_copy(update={"files": hashes})
        replace(self.model_file("info.json"), encode(published))

    def model_info(self) -> WorkerInfo | None:
        """The data last published by a worker, None if there are none."""
        return read(self.model_file("info.json"), WorkerInfo)

    def model_file(self, name: str) -> Path:
        """Path of a published file; it need not exist."""
        return self._inside("model", name)

    def base_file(self, name: str) -> Path:
        """Path for data of the base model (prefixes, moments); its folder exists."""
        path = self._inside("base", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def valkey_folder(self) -> Path:
        """The folder of an embedded server's append-only file."""
        return self.root / "valkey"

    def work_folder(self, job_id: str) -> Path:
        """The folder of an unfinished job's partial results; it is created if missing."""
        return self._folder("work", job_id)

    def report_folder(self, job_id: str) -> Path:
        """The folder of the files that a job's result names; it is created if missing."""
        return self._folder("reports", job_id)

    def sweep(self) -> int:
        """Remove files left behind by crashes; return their number.  Needs :meth:`worker_lock`.

        The staging folder belongs to the worker and is emptied; then as :meth:`sweep_orphans`.
        """
        staged = list((self.root / "staging").iterdir())
        return _remove(staged) + self.sweep_orphans()

    def sweep_orphans(self) -> int:
        """Remove unreferenced files; return their number.  No version may be written meanwhile.

        These are partial results of jobs that have ended, reports of jobs that did not succeed,
        tensors that neither a version nor a draft names, marks of jobs without a record, and
        other processes' unfinished files when they are an hour old.
        """
        # listed before the needed ones are determined, so a job that begins meanwhile loses nothing
        work = list((self.root / "work").iterdir())
        unfinished = {job.id for job in self.unfinished_jobs()}
        leftovers = [p for p in work if p.name not in unfinished]
        leftovers += [p for p in (self.root / "reports").iterdir() if self._is_orphan(p.name)]
        leftovers += self._unreferenced_tensors()
        oldest = time.time() - _ABANDONED_S
        leftovers += [path for path in self._unfinished() if _is_older(path, oldest)]
        marks = ((self.root / "jobs").glob(f"*.{mark}") for mark in ("open", "cancel"))
        alone = (p for some in marks for p in some if not p.with_suffix(".json").exists())
        leftovers += [p for p in alone if p.lstat().st_mtime < oldest]
        return _remove(leftovers) + self._forget_keys() + self._forget_marks()

    def _unfinished(self) -> Iterator[Path]:
        """Files that are or were being written; folders may vanish meanwhile."""
        ours = (self.root / name for name in _FOLDERS if name not in ("training", "valkey"))
        walks = ([next(os.walk(self.root))], *map(os.walk, ours))
        for folder, _, names in chain.from_iterable(walks):
            for name in names:
                if name.startswith(".") and name.endswith((TEMPORARY, PARTIAL)):
                    yield Path(folder, name)

    def _is_orphan(self, job_id: str) -> bool:
        """Whether no job with this id runs or has succeeded; an unreadable record may be one's."""
        try:
            job = self.job(job_id)
        except UnknownJob:
            return True
        except CorruptFile:
            return False
        return job.status in TERMINAL and job.status is not JobStatus.SUCCEEDED

    def _unreferenced_tensors(self) -> list[Path]:
        files = list((self.root / "tensors").glob("*/*.safetensors"))
        if damaged := self.damaged_versions():  # it is unknown which tensors they need
            self._say_once(
                f"no tensors are tidied away while {', '.join(damaged)} cannot be read: see "
                "jeep store verify"
            )
            return []
        try:
            named = {self.tensor_file(ref.sha256) for ref in self.referenced()}
        except CorruptFile as error:
            self._say_once(f"no tensors are tidied away: {error}")
            return []
        return [path for path in files if path not in named]

    def _folder(self, where: str, job_id: str) -> Path:
        path = self._inside(where, job_id)
        path.mkdir(exist_ok=True)
        return path

    def _inside(self, folder: str, name: str) -> Path:
        path = (self.root / folder / name).resolve()
        if not path.is_relative_to((self.root / folder).resolve()):
            raise ValueError(f"{name!r} leads out of the store")
        return path


def _is_older(path: Path, moment: float) -> bool:
    try:
        return path.lstat().st_mtime < moment
    except FileNotFoundError:  # its writer has just renamed it
        return False


def _remove(paths: Sequence[Path]) -> int:
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)  # its job may be removing it as well
        else:
            path.unlink(missing_ok=True)
    return len(paths)
