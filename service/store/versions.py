"""Versions: immutable manifests, one directory each, numbered by a counter."""

from __future__ import annotations

import logging
import re
import shutil
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from pydantic import BaseModel

from service.contracts.jobs import now
from service.contracts.schemas import Manifest
from service.store.errors import (
    CorruptFile,
    MissingTensor,
    UnknownVersion,
    VersionExists,
    WrongModel,
)
from service.store.files import encode, fsync_folder, locked, read, replace, write_new
from service.store.tensors import Tensors

log = logging.getLogger(__name__)

BASE = "v0"
"""The unedited model."""

SET_ASIDE = "damaged"
"""Folder of versions that were moved out of the way."""

VERSION_ID = re.compile(r"v(0|[1-9][0-9]{0,17})")


class Counter(BaseModel):
    """``counter.json``: the number of the next version."""

    next: int


class Versions(Tensors):
    """The versions of a store.  Manifests are parsed once and shared: do not change them."""

    _manifests: dict[str, Manifest]
    _said: set[str]

    def set_aside(self) -> list[str]:
        """Ids of damaged versions that were moved aside by a repair."""
        folder = self.root / SET_ASIDE
        return _version_names(folder) if folder.exists() else []

    def new_version_id(self) -> str:
        """A new id ``vN``, never issued twice: the counter is durable before the id is used."""
        path = self.root / "counter.json"
        with locked(self.root / "locks" / "counter"):
            counter = read(path, Counter) or Counter(next=1)
            taken = [*self._numbers(), *(int(name[1:]) for name in self.set_aside())]
            number = max([counter.next, *(n + 1 for n in taken)])
            replace(path, encode(Counter(next=number + 1)))
        return f"v{number}"

    def write_version(self, manifest: Manifest) -> None:
        """Write a version atomically; its tensors and its parent must be stored before.

        Raises :class:`VersionExists`, :class:`MissingTensor` or :class:`UnknownVersion`.
        """
        if not VERSION_ID.fullmatch(manifest.id):
            raise ValueError(f"{manifest.id!r} is no version id")
        if manifest.parent is not None:
            self.version(manifest.parent)
        for ref in (*manifest.tensors, *manifest.artifacts):
            if not self.has_tensor(ref):
                raise MissingTensor(f"{manifest.id}: tensor {ref.name} was not stored")
        target = self.root / "versions" / manifest.id
        aside = self.root / "staging" / manifest.id
        shutil.rmtree(aside, ignore_errors=True)
        try:
            aside.mkdir()
            write_new(aside / "manifest.json", [encode(manifest)])
            fsync_folder(aside)
            with self._as_writer():
                aside.rename(target)
        except OSError as error:
            shutil.rmtree(aside, ignore_errors=True)
            if target.exists():
                raise VersionExists(f"{manifest.id} is already written") from None
            raise error
        fsync_folder(target.parent)

    def _as_writer(self) -> AbstractContextManager[None]:
        """A context for the moment in which a version becomes visible."""
        return nullcontext()

    def create_base(self, weights_sha256: str) -> Manifest:
        """Write ``v0`` once; :class:`WrongModel` if it was made from other weights.

        A damaged one is written again: its content except the date is known from the model.
        """
        base = Manifest(id=BASE, weights_sha256=weights_sha256, created_at=now())
        try:
            base = self.version(BASE)
        except UnknownVersion:
            self.write_version(base)
        except CorruptFile as error:
            log.error("written again: %s", error)
            replace(self.root / "versions" / BASE / "manifest.json", encode(base))
        if base.weights_sha256 != weights_sha256:
            raise WrongModel(
                f"the store's base has weights {base.weights_sha256[:12]}…, "
                f"the model has {weights_sha256[:12]}…"
            )
        return base

    def version(self, version_id: str) -> Manifest:
        """The manifest of ``vN``.

        Raises :class:`UnknownVersion` if there is no such version, :class:`CorruptFile` if its
        manifest is damaged or missing.
        """
        if version_id in self._manifests:
            return self._manifests[version_id]
        if not VERSION_ID.fullmatch(version_id):
            raise UnknownVersion(version_id)
        path = self.root / "versions" / version_id / "manifest.json"
        manifest = read(path, Manifest)
        if manifest is None:
            if path.parent.exists():  # a version becomes visible with its manifest in it
                raise CorruptFile(f"{path} is missing")
            raise UnknownVersion(version_id)
        if manifest.id != version_id:
            raise CorruptFile(f"the manifest of {version_id} says {manifest.id}")
        return self._manifests.setdefault(version_id, manifest)

    def versions(self) -> list[Manifest]:
        """All versions, newest first; damaged ones are left out, and logged once."""
        return self._sorted_out()[0]

    def damaged_versions(self) -> dict[str, str]:
        """Versions whose manifest cannot be read, newest first: id → error."""
        return self._sorted_out()[1]

    def _sorted_out(self) -> tuple[list[Manifest], dict[str, str]]:
        whole: list[Manifest] = []
        damaged: dict[str, str] = {}
        for number in sorted(self._numbers(), reverse=True):
            try:
                whole.append(self.version(f"v{number}"))
            except CorruptFile as error:
                damaged[f"v{number}"] = str(error)
            except UnknownVersion:
                continue  # it was moved aside since it was listed
        for version, what in damaged.items():
            self._say_once(f"{version} is damaged and passed over: {what}")
        return whole, damaged

    def is_readable(self, version_id: str) -> bool:
        """Whether this is a version with a manifest that can be read."""
        try:
            self.version(version_id)
        except (CorruptFile, UnknownVersion):
            return False
        return True

    def version_of_job(self, job_id: str) -> Manifest | None:
        """The newest version that a job has written; damaged ones are skipped."""
        return next((one for one in self.versions() if one.job_id == job_id), None)

    def lineage(self, version_id: str) -> list[Manifest]:
        """From the base to ``version_id``; :class:`CorruptFile` if a version between is damaged."""
        line = [self.version(version_id)]
        while (parent := line[-1].parent) is not None:
            try:
                line.append(self.version(parent))
            except (CorruptFile, UnknownVersion) as error:
                path = self.root / "versions" / parent / "manifest.json"
                what = error if isinstance(error, CorruptFile) else f"{path} is missing"
                raise CorruptFile(f"{what}: {line[-1].id} is built on {parent}") from None
        return line[::-1]

    def _say_once(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            log.error("%s", message)

    def _numbers(self) -> list[int]:
        return [int(name[1:]) for name in _version_names(self.root / "versions")]


def _version_names(folder: Path) -> list[str]:
    """The entries of a folder that have names of versions."""
    return [entry.name for entry in folder.iterdir() if VERSION_ID.fullmatch(entry.name)]
