"""Versions: immutable manifests, one directory each, numbered by a counter."""

from __future__ import annotations

import logging
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, Field

from jeep_core.storage.looking import ABSENT, listed, present
from service.contracts.jobs import now
from service.contracts.schemas import Manifest, TensorRef
from service.store.errors import (
    CorruptFile,
    ErrorLog,
    MissingTensor,
    UnknownVersion,
    VersionExists,
    WrongModel,
)
from service.store.files import OF_ONE_FILE, encode, fsync_folder, locked, read, replace, write_new
from service.store.tensors import Tensors

log = logging.getLogger(__name__)

BASE = "v0"
"""The unedited model."""

SET_ASIDE = "damaged"
"""Folder of versions that were moved out of the way."""

WANTED_S = 3600.0
"""How long a version that was asked for keeps its tensors."""

_WANTED = "wanted-"

MANY = 512
"""Numbers that are looked up one by one; beyond that the folder is listed."""

VERSION_ID = re.compile(r"v(0|[1-9][0-9]{0,17})")


class Counter(BaseModel):
    """``counter.json``: the number of the next version."""

    next: int


class Ties(BaseModel):
    """The elements of one tensor whose rounding is in doubt: flat indices (k,), values (k,)."""

    indices: TensorRef
    values: TensorRef


class Thin(BaseModel):
    """``thin.json``: the tensors were rebuilt from their factors and matched their hashes."""

    ties: dict[str, Ties] = Field(default_factory=dict)

    def refs(self) -> list[TensorRef]:
        """The stored tensors that belong to it."""
        return [ref for one in self.ties.values() for ref in (one.indices, one.values)]


@dataclass(frozen=True)
class Lost:
    """The reason why a list has nothing of a manifest.

    ``for_now``: it cannot be read now, which says nothing of what is in it.
    """

    what: str
    for_now: bool = False


class Versions:
    """The versions of a store (``store.versions``).

    Manifests are parsed once and shared: do not change them.  The last ``keeps`` of them, all if it
    is None, stay in memory.  ``visible`` gives a context for the
    moment in which a version becomes visible; it raises if this process may not write any more.
    """

    def __init__(
        self,
        root: Path,
        tensors: Tensors,
        visible: Callable[[], AbstractContextManager[None]],
        errors: ErrorLog,
    ) -> None:
        self._root, self._tensors, self._visible, self._errors = root, tensors, visible, errors
        self._manifests: dict[str, Manifest] = {}
        self.keeps: int | None = None
        self._given: int | None = None

    def set_aside(self) -> list[str]:
        """Ids of damaged versions that were moved aside by a repair."""
        folder = self._root / SET_ASIDE
        return _version_names(folder) if present(folder) else []

    def new_id(self) -> str:
        """A new id ``vN``, never issued twice: the counter is durable before the id is used."""
        path = self._root / "counter.json"
        with locked(self._root / "locks" / "counter"):
            counter = read(path, Counter) or Counter(next=1)
            if self._given is None:  # the counter may be older than the versions, once
                taken = [*self.numbers(), *(int(name[1:]) for name in self.set_aside())]
                self._given = max(taken, default=0)
            number = self._given = max(counter.next, self._given + 1)
            replace(path, encode(Counter(next=number + 1)))
        return f"v{number}"

    def write(self, manifest: Manifest) -> None:
        """Write a version atomically; its tensors and its parent must be stored before.

        Raises :class:`VersionExists`, :class:`MissingTensor` or :class:`UnknownVersion`.
        """
        if not VERSION_ID.fullmatch(manifest.id):
            raise ValueError(f"{manifest.id!r} is no version id")
        if manifest.parent is not None:
            self.read(manifest.parent)
        for ref in (*manifest.tensors, *manifest.artifacts):
            if not self._tensors.has(ref):
                raise MissingTensor(f"{manifest.id}: tensor {ref.name} was not stored")
        target = self._root / "versions" / manifest.id
        aside = self._root / "staging" / manifest.id
        shutil.rmtree(aside, ignore_errors=True)
        try:
            aside.mkdir()
            write_new(aside / "manifest.json", [encode(manifest)])
            fsync_folder(aside)
            with self._visible():
                aside.rename(target)
            if self._given is not None:
                self._given = max(self._given, int(manifest.id[1:]))
        except OSError as error:
            shutil.rmtree(aside, ignore_errors=True)
            if present(target):
                raise VersionExists(f"{manifest.id} is already written") from None
            raise error
        fsync_folder(target.parent)

    def create_base(self, weights_sha256: str) -> Manifest:
        """Write ``v0`` once; :class:`WrongModel` if it was made from other weights.

        A damaged one is written again: its content except the date is known from the model.
        """
        base = Manifest(id=BASE, weights_sha256=weights_sha256, created_at=now())
        try:
            base = self.read(BASE)
        except UnknownVersion:
            self.write(base)
        except CorruptFile as error:
            log.error("written again: %s", error)
            replace(self._root / "versions" / BASE / "manifest.json", encode(base))
        if base.weights_sha256 != weights_sha256:
            raise WrongModel(
                f"the store's base has weights {base.weights_sha256[:12]}…, "
                f"the model has {weights_sha256[:12]}…"
            )
        return base

    def read(self, version_id: str) -> Manifest:
        """The manifest of ``vN``.

        Raises :class:`UnknownVersion` if there is no such version, :class:`CorruptFile` if its
        manifest is damaged or missing.
        """
        if version_id in self._manifests:
            return self._manifests[version_id]
        found = self._manifests.setdefault(version_id, self.parsed(version_id))
        while self.keeps is not None and len(self._manifests) > self.keeps:
            with suppress(KeyError, RuntimeError, StopIteration):  # another thread was first
                del self._manifests[next(iter(self._manifests))]
        return found

    def parsed(self, version_id: str) -> Manifest:
        """As `read`, from the file each time, and not kept."""
        if not VERSION_ID.fullmatch(version_id):
            raise UnknownVersion(version_id)
        path = self._root / "versions" / version_id / "manifest.json"
        manifest = read(path, Manifest)
        if manifest is None:
            if present(path.parent):  # a version becomes visible with its manifest in it
                raise CorruptFile(f"{path} is missing")
            raise UnknownVersion(version_id)
        if manifest.id != version_id:
            raise CorruptFile(f"the manifest of {version_id} says {manifest.id}")
        return manifest

    def all(self) -> list[Manifest]:
        """All versions, newest first; damaged ones are left out, and logged once.

        Raises:
            OSError: one cannot be read now.  Who removes what no version needs must know of it;
                who only shows versions takes `sorted_out`.
        """
        return self._sorted_out(strict=True)[0]

    def damaged(self) -> dict[str, str]:
        """Versions whose manifest is damaged, newest first: id → error; raises as `all`."""
        return {version: lost.what for version, lost in self._sorted_out(strict=True)[1].items()}

    def sorted_out(self) -> tuple[list[Manifest], dict[str, Lost]]:
        """All versions, newest first, and those that are damaged or cannot be read now.

        For lists: one file that a disk cannot read, or that may not be read, keeps no other
        version from being shown.

        Raises:
            OSError: file descriptors, memory or the whole disk are not there now.
        """
        return self._sorted_out(strict=False)

    def _sorted_out(self, *, strict: bool) -> tuple[list[Manifest], dict[str, Lost]]:
        whole: list[Manifest] = []
        lost: dict[str, Lost] = {}
        for number in sorted(self.numbers(), reverse=True):
            try:
                whole.append(self.read(f"v{number}"))
            except CorruptFile as error:
                lost[f"v{number}"] = Lost(str(error))
                self._errors.once(f"v{number} is damaged and passed over: {error}")
            except UnknownVersion:
                continue  # it was moved aside since it was listed
            except OSError as error:
                if strict:
                    raise
                lost[f"v{number}"] = of_one_file(error)
                self._errors.once(f"v{number} cannot be read now and is passed over: {error}")
        return whole, lost

    def is_readable(self, version_id: str) -> bool:
        """Whether this is a version with a manifest that can be read."""
        try:
            self.read(version_id)
        except (CorruptFile, UnknownVersion):
            return False
        return True

    def read_to_show(self, version_id: str) -> Manifest | None:
        """As `read`, for lists: None if it is damaged, gone, or cannot be read now."""
        try:
            return self.read(version_id)
        except (CorruptFile, UnknownVersion):
            return None
        except OSError as error:
            if error.errno in OF_ONE_FILE:
                return None
            raise

    def lost(self, version_id: str) -> Lost | None:
        """The reason why a version cannot be shown by its file; None if it can be, or is gone."""
        try:
            self.parsed(version_id)
        except CorruptFile as error:
            return Lost(str(error))
        except OSError as error:
            return of_one_file(error)
        except UnknownVersion:
            return None
        return None

    def denied(self, version_id: str) -> Lost | None:
        """The reason why a manifest cannot be opened now; it is not read.  None as `lost`."""
        try:
            (self._root / "versions" / version_id / "manifest.json").open("rb").close()
        except ABSENT:
            return None
        except OSError as error:
            return of_one_file(error)
        return None

    def of_job(self, job_id: str) -> Manifest | None:
        """The newest version that a job has written; damaged ones are skipped."""
        return next((one for one in self.all() if one.job_id == job_id), None)

    def lineage(self, version_id: str) -> list[Manifest]:
        """From the base to ``version_id``; :class:`CorruptFile` if a version between is damaged."""
        return list(self.back(version_id))[::-1]

    def back(self, version_id: str) -> Iterator[Manifest]:
        """From ``version_id`` to the base, each read when it is asked for; errors as `lineage`."""
        manifest = self.read(version_id)
        yield manifest
        while (parent := manifest.parent) is not None:
            try:
                above = self.read(parent)
            except (CorruptFile, UnknownVersion) as error:
                path = self._root / "versions" / parent / "manifest.json"
                what = error if isinstance(error, CorruptFile) else f"{path} is missing"
                raise CorruptFile(f"{what}: {manifest.id} is built on {parent}") from None
            yield (manifest := above)

    def thin(self, version_id: str) -> Thin | None:
        """The record of a thin version, None if its tensors were never dropped."""
        return read(self._thin_file(version_id), Thin)

    def mark_thin(self, version_id: str, thin: Thin) -> None:
        """Record that the tensors of a version may be dropped, and what rebuilds them."""
        replace(self._thin_file(version_id), encode(thin))

    def missing(self, manifest: Manifest) -> list[TensorRef]:
        """The tensors of a version that have no file."""
        return [ref for ref in manifest.tensors if not present(self._tensors.path(ref.sha256))]

    def want(self, version_id: str) -> bool:
        """Keep a version's tensors for an hour; False if some have been dropped already.

        Called by any process that is about to read them, or to make the version head.
        """
        manifest = self.read(version_id)
        with locked(self._root / "locks" / "tensors"):
            (self._root / "locks" / f"{_WANTED}{version_id}").touch()
            return not self.missing(manifest)

    def wanted(self) -> set[str]:
        """The versions that were asked for in the last hour."""
        oldest = time.time() - WANTED_S
        marks = listed(self._root / "locks", f"{_WANTED}*")
        return {m.name.removeprefix(_WANTED) for m in marks if m.stat().st_mtime > oldest}

    def forget_wanted(self) -> None:
        """Remove the marks of versions that were not requested lately."""
        with locked(self._root / "locks" / "tensors"):
            current = self.wanted()
            for mark in listed(self._root / "locks", f"{_WANTED}*"):
                if mark.name.removeprefix(_WANTED) not in current:
                    mark.unlink()

    def newest_number(self) -> int:
        """N of the newest version ``vN``, readable or not; 0 if there is none but the base."""
        return max(self.numbers(), default=0)

    def given_since(self, number: int) -> range | None:
        """The numbers after ``number`` that were given out, whatever became of them.

        None: they are too many, or nobody knows; then `numbers` says which versions there are.
        """
        try:
            counter = read(self._root / "counter.json", Counter)
        except CorruptFile:
            return None
        if counter is None or counter.next - number > MANY:
            return None
        return range(number + 1, counter.next)

    def is_there(self, number: int) -> bool:
        """Whether there is a version ``vN``, readable or not."""
        return present(self._root / "versions" / f"v{number}")

    def _thin_file(self, version_id: str) -> Path:
        if not VERSION_ID.fullmatch(version_id):
            raise ValueError(f"{version_id!r} is no version id")
        return self._root / "versions" / version_id / "thin.json"

    def numbers(self) -> set[int]:
        """N of every version ``vN``, readable or not."""
        return {int(name[1:]) for name in _version_names(self._root / "versions")}


def of_one_file(error: OSError) -> Lost:
    """The reason why a manifest cannot be read now; raises it where it is not its own alone."""
    if error.errno not in OF_ONE_FILE:
        raise error
    return Lost(f"its manifest cannot be read now: {error.strerror or error}", for_now=True)


def _version_names(folder: Path) -> list[str]:
    """The entries of a folder that have names of versions."""
    return [entry.name for entry in folder.iterdir() if VERSION_ID.fullmatch(entry.name)]
