"""A store that is read through the api: its files are brought when they are first needed.

Everything is named by its hash or never changes, so what is here is what is there.  ``head.json``
and the published model alone change; the follower's `Mirror` writes them.
"""

from __future__ import annotations

import errno
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Protocol

from jeep_core.storage.looking import present
from service.contracts.schemas import Manifest, TensorRef
from service.contracts.schemas.worker import LONGEST_LINE
from service.store.errors import (
    CorruptFile,
    CorruptTensor,
    ErrorLog,
    NotFetched,
    StoreError,
    UnknownVersion,
    is_disk_full,
)
from service.store.fetched.cache import Cache
from service.store.files import encode, replace
from service.store.store import Store
from service.store.tensors import ITEM_BYTES, KEY, Tensors, safetensors_header
from service.store.versions import VERSION_ID, Versions

AT_A_TIME = 4
"""Tensors of a version that are fetched side by side."""
PART = ".part"
"""Ending of a file that is half there."""
_TURNS = 64
SHA256 = re.compile(r"[0-9a-f]{64}")
Trim = Callable[[int | None], object]


class Source(Protocol):
    """Brings what is not here."""

    def line(self, version: str, count: int) -> list[Manifest]:
        """The manifests of a version and of up to ``count - 1`` of those below it.

        Raises:
            UnknownVersion: there is no such version.
            NotFetched, CorruptFile: it cannot be had, or is damaged in the store.
        """
        ...

    def tensor(self, version: str, ref: TensorRef, path: Path, head: bytes) -> None:
        """Write the file of a version's tensor, which begins with ``head``.

        Raises:
            NotFetched, CorruptTensor: it cannot be had, or is damaged in the store.
        """
        ...


class FetchedTensors(Tensors):
    """Tensors that are fetched when they are first mapped, and again when a file is damaged."""

    def __init__(self, root: Path, source: Source) -> None:
        super().__init__(root)
        self._source = source
        self._owners: dict[str, tuple[str, TensorRef]] = {}
        # by the beginning of a hash: two threads never fetch the same file at a time
        self._turns = [threading.Lock() for _ in range(_TURNS)]
        self._held: Counter[str] = Counter()
        self._holding = threading.Lock()
        self.trim: Trim = lambda limit: None

    def belong(self, manifest: Manifest) -> None:
        """Note by which version the tensors that it names can be fetched."""
        for ref in (*manifest.tensors, *manifest.artifacts):
            self._owners[ref.sha256] = manifest.id, ref

    def map(self, ref: TensorRef) -> memoryview:
        """As `Tensors.map`.

        Raises:
            NotFetched: it is not here and cannot be had.
            CorruptTensor: it is damaged in the store.
        """
        with self._hold([ref]):
            self.bring([ref])
            try:
                return super().map(ref)
            except (CorruptTensor, OSError) as error:  # of this disk
                if isinstance(error, OSError) and error.errno != errno.EIO:
                    raise
                self.path(ref.sha256).unlink(missing_ok=True)
                self.bring([ref])
                return super().map(ref)

    def bring(self, refs: Sequence[TensorRef]) -> None:
        """See to it that tensors are here, and are taken for used now.

        Raises:
            NotFetched, CorruptTensor: as `map`, for the first one that cannot be had.
        """
        missing = {ref.sha256: ref for ref in refs if not self._is_here(ref)}
        if not missing:
            return
        threads = min(len(missing), AT_A_TIME)
        with self._hold(refs):
            with ThreadPoolExecutor(threads, thread_name_prefix="fetching") as pool:
                for done in [pool.submit(self._fetch, ref) for ref in missing.values()]:
                    done.result()
            self.trim(None)

    def held(self) -> set[Path]:
        """Files that are on their way, or about to be mapped."""
        with self._holding:
            paths = {self.path(sha256) for sha256 in self._held}
        return paths | {path.with_name(path.name + PART) for path in paths}

    def _is_here(self, ref: TensorRef) -> bool:
        if not self.has(ref):
            return False
        with suppress(OSError):
            os.utime(self.path(ref.sha256))
        return True

    def _fetch(self, ref: TensorRef) -> None:
        if ref.sha256 not in self._owners:
            raise NotFetched(f"tensor {ref.name} is named by no version that is known here")
        version, known = self._owners[ref.sha256]
        with self._turns[int(ref.sha256[:8], 16) % _TURNS]:
            if self._is_here(ref):  # another thread has had it brought
                return
            with_room(self.trim, lambda: self._bring(version, known))

    @contextmanager
    def _hold(self, refs: Sequence[TensorRef]) -> Iterator[None]:
        """Let nothing remove these for the block."""
        names = [ref.sha256 for ref in refs]
        with self._holding:
            self._held.update(names)
        try:
            yield
        finally:
            with self._holding:
                self._held -= Counter(names)

    def _bring(self, version: str, ref: TensorRef) -> None:
        path = self.path(ref.sha256)
        path.parent.mkdir(parents=True, exist_ok=True)
        head = safetensors_header([ref.model_copy(update={"name": KEY})])
        self._source.tensor(version, ref, path, head)


def with_room(trim: Trim, write: Callable[[], object]) -> None:
    """Write something; where the disk is full, all that is not in use makes way for it, once.

    Raises:
        NotFetched: it cannot be written.
    """
    try:
        try:
            write()
        except OSError as error:
            if not is_disk_full(error):
                raise
            trim(0)
            write()
    except OSError as error:
        raise NotFetched(f"what is fetched cannot be written (JEEP_STORE): {error}") from None


def check_line(version: str, line: Sequence[Manifest]) -> None:
    """Check that these are manifests of a version and of those below it: files are named by them.

    Raises:
        NotFetched: they are not.
    """
    wanted: str | None = version
    for manifest in line:
        if manifest.id != wanted or not _is_version(manifest):
            raise NotFetched(f"{version}: what is given for it is not its manifest")
        wanted = manifest.parent
    if not line:
        raise NotFetched(f"{version}: nothing is given for it")


def _is_version(manifest: Manifest) -> bool:
    ids = manifest.id if manifest.parent is None else manifest.parent, manifest.id
    if not all(map(VERSION_ID.fullmatch, ids)):
        return False
    below, number = (int(one[1:]) for one in ids)
    # numbers fall towards the base, so every line ends
    falls = manifest.parent is None or below < number
    return falls and all(map(_is_tensor, (*manifest.tensors, *manifest.artifacts)))


def _is_tensor(ref: TensorRef) -> bool:
    whole = SHA256.fullmatch(ref.sha256) and ref.dtype in ITEM_BYTES
    return bool(whole) and all(size >= 0 for size in ref.shape)


class FetchedVersions(Versions):
    """Versions whose manifests are fetched when they are first read, and their tensors with them.

    Whoever loads one asks for what is `missing`: nothing is, once that has returned.
    """

    def __init__(
        self,
        root: Path,
        tensors: FetchedTensors,
        visible: Callable[[], AbstractContextManager[None]],
        errors: ErrorLog,
        source: Source,
    ) -> None:
        super().__init__(root, tensors, visible, errors)
        self._fetched, self._source = tensors, source

    def parsed(self, version_id: str) -> Manifest:
        """As `Versions.parsed`.

        Raises:
            NotFetched: it is not here and cannot be had.
        """
        try:
            found = super().parsed(version_id)
        except (UnknownVersion, CorruptFile, OSError) as error:
            if isinstance(error, OSError) and error.errno != errno.EIO:
                raise
            if not VERSION_ID.fullmatch(version_id):
                raise
            self._bring(version_id, 1)
            found = super().parsed(version_id)
        else:
            with suppress(OSError):
                os.utime(self.file(version_id))
        self._fetched.belong(found)
        return found

    def back(self, version_id: str) -> Iterator[Manifest]:
        """As `Versions.back`; manifests that are not here are fetched many at a time."""
        for manifest in super().back(version_id):
            yield manifest
            if manifest.parent is not None and not present(self.file(manifest.parent)):
                self._bring(manifest.parent, LONGEST_LINE)

    def missing(self, manifest: Manifest) -> list[TensorRef]:
        """Fetch the tensors that are not here.  None is missing then.

        Raises:
            NotFetched, CorruptTensor: one cannot be had, or is damaged in the store.
        """
        self._fetched.belong(manifest)
        self._fetched.bring(manifest.tensors)
        return []

    def file(self, version_id: str) -> Path:
        """The file of a version's manifest."""
        return self._root / "versions" / version_id / "manifest.json"

    def _bring(self, version_id: str, count: int) -> None:
        found = self._source.line(version_id, count)
        check_line(version_id, found)
        with_room(self._fetched.trim, lambda: self._keep(found))

    def _keep(self, manifests: Sequence[Manifest]) -> None:
        for manifest in manifests:
            path = self.file(manifest.id)
            path.parent.mkdir(parents=True, exist_ok=True)
            replace(path, encode(manifest))


class FetchedStore(Store):
    """A copy of a store in a follower's own folder; see the module.

    ``in_use`` gives the versions whose files are to stay, beside head's.
    """

    def __init__(self, root: Path, cache: Cache, source: Source) -> None:
        self._source, self._cache = source, cache
        super().__init__(root, following=True)
        self.in_use: Callable[[], set[str]] = set
        self._sized_at, self._size = 0.0, 0
        assert isinstance(self.tensors, FetchedTensors)
        self.tensors.trim = self.trim

    def trim(self, limit: int | None = None) -> None:
        """Remove what was used least recently, as far as the bound of the folder asks for it."""
        self._size = self._cache.trim(self._kept(), limit)
        self._sized_at = time.monotonic()

    @property
    def cached_bytes(self) -> int:
        """Size of the folder, when it was last looked at."""
        if not self._sized_at:
            self.trim()
        return self._size

    def _kept(self) -> set[Path]:
        """The files of head, and of the versions in use, and what is on its way."""
        tensors, versions = self._own_tensors, self._own_versions
        kept = tensors.held()
        kept |= {self.root / name for name in ("format.json", "id.json", "model.json", "head.json")}
        kept |= set((self.root / "model").iterdir())
        wanted = {"v0", *self.in_use()}
        with suppress(StoreError):
            wanted.add(self.head.read().version)
        for version in wanted:
            path = versions.file(version)
            if present(path):
                kept.add(path)
                with suppress(StoreError):
                    kept |= {tensors.path(ref.sha256) for ref in versions.read(version).tensors}
        return kept

    @property
    def _own_tensors(self) -> FetchedTensors:
        assert isinstance(self.tensors, FetchedTensors)
        return self.tensors

    @property
    def _own_versions(self) -> FetchedVersions:
        assert isinstance(self.versions, FetchedVersions)
        return self.versions

    def _make_tensors(self) -> Tensors:
        return FetchedTensors(self.root, self._source)

    def _make_versions(self) -> Versions:
        return FetchedVersions(
            self.root, self._own_tensors, self._visible, self.errors, self._source
        )
