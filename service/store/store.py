"""``Store``: opens the directory, binds it to a model, and holds the components.

Each component owns its files and gets only what it needs: the root, and the components it reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from datetime import timedelta
from functools import cached_property
from pathlib import Path

from pydantic import BaseModel
from ulid import ULID

from jeep_core.storage.looking import LOST_AND_FOUND, is_folder, listed, present
from service.contracts.schemas import Manifest
from service.store.api_keys import ApiKeys
from service.store.audit import AuditLog
from service.store.base.files import FOLDER as BASE_FOLDER
from service.store.base.files import BaseFiles
from service.store.drafts import Drafts
from service.store.errors import (
    CorruptFile,
    ErrorLog,
    NotAStore,
    StoreError,
    StoreReplaced,
    WrongFormat,
    WrongModel,
)
from service.store.exports import FOLDER as EXPORTS_FOLDER
from service.store.exports import Exports
from service.store.files import (
    create,
    encode,
    held,
    locked,
    make_private,
    read,
    replace,
)
from service.store.head import HeadPointer
from service.store.index.catalogue import Catalogue
from service.store.index.checks import Checks
from service.store.index.committed import Committed
from service.store.index.database import FOLDER as INDEX
from service.store.index.database import Database
from service.store.index.head_log import HeadLog
from service.store.index.jobs import JobIndex
from service.store.index.sums import Sums
from service.store.journal import Journal, make_folder
from service.store.names import Names
from service.store.reports import Reports
from service.store.suites import Suites
from service.store.targets.artefacts import Artefacts
from service.store.targets.records import FOLDER as TARGETS
from service.store.targets.records import Targets
from service.store.tensors import Tensors
from service.store.versions import Versions

FORMAT = 1
FOLDERS = (
    "model", BASE_FOLDER, "versions", "tensors", "jobs", "idempotency", "valkey", "locks",
    "staging", "work", "reports", "suites", "training", "keys", EXPORTS_FOLDER, TARGETS,
    INDEX,
)  # fmt: skip
"""The folders of a store's directory."""


class StoreFormat(BaseModel):
    """``format.json``."""

    format: int


class StoreIdentity(BaseModel):
    """``id.json``."""

    id: str


class StoreModel(BaseModel):
    """``model.json``."""

    model_hash: str


class Store:
    """A store on disk.  Any process may read it and journal jobs.  Only the worker, while it holds
    :meth:`worker_lock`, may write tensors, versions and head or sweep.  A follower reads
    (``following``), and writes what belongs to a job that it has claimed: partial results, report
    and end.

    Attributes:
        tensors: by content; versions and drafts refer to them.
        versions: manifests, immutable.
        head: the committed version and the reflog; head_log: the order of its moves.
        names: snapshot names, and what a reference to a version means.
        catalogue: an index of versions and facts; committed: of versions that were head.
        journal: jobs, cancels, idempotency keys.
        drafts: what unfinished jobs have so far.
        reports: the files that results name; checks: what some of them say of facts.
        exports: versions as files for other programs.
        suites: uploaded suites.
        keys: API keys.
        audit: who did what.
        targets: servers that are kept at a version; artefacts: what these read.
        base: the files of the base model.
        errors: logs once what is wrong with a file.

    ``following``: this process does not write, but for the jobs that it does.
    """

    def __init__(
        self, root: Path, idempotency_hours: float = 24.0, *, following: bool = False
    ) -> None:
        self.root, self._following = root, following
        self.errors = ErrorLog()
        self.tensors = self._make_tensors()
        self.versions = self._make_versions()
        self.head = HeadPointer(root, self.versions, self.errors)
        self.head_log = HeadLog(root, self.head)
        self.names = Names(root, self.versions, self.head)
        database = Database(root / INDEX / "catalogue.sqlite", read_only=following)
        self.catalogue = Catalogue(root, self.versions, database)
        self.committed = Committed(root, self.catalogue)
        self.sums = Sums(root, read_only=following)
        self.journal = Journal(root, timedelta(hours=idempotency_hours), JobIndex(root, database))
        self.drafts = Drafts(root)
        self.reports = Reports(root)
        self.checks = Checks(self.catalogue, self.journal, self.reports, self.errors)
        self.exports = Exports(root)
        self.suites = Suites(root)
        self.keys = ApiKeys(root)
        self.audit = AuditLog(root)
        self.targets = Targets(root)
        self.artefacts = Artefacts(root)
        self.base = BaseFiles(root)

    def _make_tensors(self) -> Tensors:
        return Tensors(self.root)

    def _make_versions(self) -> Versions:
        return Versions(self.root, self.tensors, self._visible, self.errors)

    @classmethod
    def open(
        cls, path: Path | str, *, idempotency_hours: float = 24.0, following: bool = False
    ) -> Store:
        """Open a store or create it in an empty or missing directory.

        ``following``: to read one that is there, in which nothing is made or mended.

        Raises :class:`NotAStore` or :class:`WrongFormat`.
        """
        root = Path(path).absolute()
        if following:
            return cls._followed(root)
        if present(root) and not is_folder(root):
            raise NotAStore(f"{root} is a file, not a directory")
        root.mkdir(parents=True, exist_ok=True)
        found = read(root / "format.json", StoreFormat)
        if found is None:
            strangers = {e.name for e in root.iterdir() if not e.name.startswith(".")}
            strangers -= {*FOLDERS, LOST_AND_FOUND, "format.json", "id.json"}
            if strangers:
                raise NotAStore(f"{root} is not empty and no store (it holds {min(strangers)})")
        elif found.format != FORMAT:
            raise WrongFormat(f"{root} has format {found.format}, this program writes {FORMAT}")
        for name in FOLDERS:
            (root / name).mkdir(mode=0o700 if name == "keys" else 0o777, exist_ok=True)
        make_folder(root)
        with suppress(OSError):  # as `make_private` itself
            make_private(
                root / "audit.jsonl", *listed(root / "keys", "*.json")
            )  # of older releases
        Artefacts(root).folder.mkdir(exist_ok=True)  # servers are started with it
        if found is None:
            replace(root / "format.json", encode(StoreFormat(format=FORMAT)))
        with suppress(FileExistsError):
            if not present(root / "id.json"):
                create(root / "id.json", encode(StoreIdentity(id=str(ULID()))))
        return cls(root, idempotency_hours)

    @classmethod
    def _followed(cls, root: Path) -> Store:
        found = read(root / "format.json", StoreFormat)
        if found is None:
            raise NotAStore(f"{root} is no store: a follower needs that of a worker")
        if found.format != FORMAT:
            raise WrongFormat(f"{root} has format {found.format}, this program reads {FORMAT}")
        return cls(root, following=True)

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
        """Bind the store to a model permanently; :class:`WrongModel` if it has another.

        Of a store that is followed, one without a model has another.
        """
        path = self.root / "model.json"
        if self._following:
            bound = read(path, StoreModel)
            if bound is None or bound.model_hash != model_hash:
                raise self._other_model(model_hash)
            return
        with locked(self.root / "locks" / "model"):
            bound = read(path, StoreModel)
            if bound is None:
                replace(path, encode(StoreModel(model_hash=model_hash)))
            elif bound.model_hash != model_hash:
                raise self._other_model(model_hash)

    def _other_model(self, model_hash: str) -> WrongModel:
        bound = read(self.root / "model.json", StoreModel)
        known = bound.model_hash[:12] if bound else "none yet"
        return WrongModel(
            f"{self.root} belongs to {self._made_for()} (hash {known}…), "
            f"not to the model that was loaded ({model_hash[:12]}…): go back to that model "
            "and type of weights (JEEP_MODEL, JEEP_DTYPE), or choose another JEEP_STORE "
            "for this one"
        )

    def _made_for(self) -> str:
        """A description of the store's model, as far as it can be read."""
        try:
            info = self.base.info()
        except CorruptFile:
            info = None
        return f"{info.model} in {info.dtype}" if info else "another model"

    def create_base(self, weights_sha256: str) -> Manifest:
        """Write ``v0`` and head unless they are there; WrongModel if made from other weights."""
        base = self.versions.create_base(weights_sha256)
        self.head.begin()
        return base

    def valkey_folder(self) -> Path:
        """The folder of an embedded server's append-only file."""
        return self.root / "valkey"

    @contextmanager
    def locked(self, *names: str) -> Iterator[None]:
        """Hold locks for the block, in this order: ``head``, ``names``, ``tensors``.

        While it holds them, no process can change what they are named after.
        """
        with ExitStack() as stack:
            for name in names:
                stack.enter_context(locked(self.root / "locks" / name))
            yield

    def _visible(self) -> AbstractContextManager[None]:
        """A version becomes visible only while no later worker has claimed head."""
        return self.head.writing()


def check_identity(store: Store) -> None:
    """Check that the directory still holds the store that was opened.

    Raises:
        StoreReplaced: a backup was restored into it, or a new store was made there.
    """
    found = read(store.root / "id.json", StoreIdentity)
    if found is not None and found.id != store.id:
        raise StoreReplaced(
            f"{store.root} holds another store now (a restored or a new one): what this "
            "process knows of its versions is void, start it again"
        )


def is_another(store: Store) -> str | None:
    """Why what is known of a store is void: another one lies there, whole; else None.

    Where the folder cannot be read, or is just being restored, nothing is known yet.
    """
    try:
        try:
            check_identity(store)
        except StoreReplaced as error:
            # a restore writes it last
            return str(error) if present(store.root / "format.json") else None
    except (StoreError, OSError):
        return None
    return None
