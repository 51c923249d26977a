"""Retention: which versions keep their tensors, and how those of the others are dropped.

Factors, keys and manifests are kept permanently; the tensors of an old version can be rebuilt from
them.  A version whose tensors were or may be dropped is *thin*: ``versions/<id>/thin.json`` says
so, and holds the data that make the rebuilding exact on any machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from service.contracts.schemas import Manifest, TensorRef
from service.store.drafts import Drafts
from service.store.errors import CorruptFile
from service.store.files import encode, locked, read, replace
from service.store.head import Pointers
from service.store.journal import Journal
from service.store.tensors import byte_count
from service.store.versions import BASE, VERSION_ID

WANTED_S = 3600.0
"""How long a version that was asked for keeps its tensors."""

_WANTED = "wanted-"


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
class Plan:
    """The versions that must get their tensors back, and those whose tensors can be dropped.

    ``kept`` says why a version keeps its tensors.  Oldest versions first.
    """

    kept: dict[str, str]
    restore: list[Manifest]
    drop: list[Manifest]


class Retention(Pointers, Drafts, Journal):
    """Dropping and keeping of tensors.  Only the worker drops."""

    def thin(self, version_id: str) -> Thin | None:
        """The record of a thin version, None if its tensors were never dropped."""
        return read(self._thin_file(version_id), Thin)

    def missing(self, manifest: Manifest) -> list[TensorRef]:
        """The tensors of a version that have no file."""
        return [ref for ref in manifest.tensors if not self.tensor_file(ref.sha256).exists()]

    def want(self, version_id: str) -> bool:
        """Keep a version's tensors for an hour; False if some have been dropped already.

        Called by any process that is about to read them, or to make the version head.
        """
        manifest = self.version(version_id)
        with locked(self.root / "locks" / "tensors"):
            (self.root / "locks" / f"{_WANTED}{version_id}").touch()
            return not self.missing(manifest)

    def retained(self, newest: int, busy: Collection[str] = ()) -> dict[str, str]:
        """The versions that keep their tensors, with the reason; ``busy`` ones are in memory."""
        ids = [manifest.id for manifest in self.versions()]
        why = dict.fromkeys(ids[:newest], "among the newest")
        why |= dict.fromkeys(busy, "in memory")
        why |= dict.fromkeys(self._wanted(), "asked for")
        why |= dict.fromkeys(self._needed_by_jobs(set(ids)), "needed by a job")
        committed = self.committed()
        staged = (m.id for m in self.versions() if m.staged and m.id not in committed)
        why |= dict.fromkeys(staged, "staged")
        why |= {version: f"named {name}" for name, version in self.names().items()}
        return why | {self.head().version: "head"}

    def plan(self, newest: int, busy: Collection[str] = ()) -> Plan:
        """The current plan of retention."""
        kept = self.retained(newest, busy)
        versions = [manifest for manifest in reversed(self.versions()) if manifest.id != BASE]
        pinned = {
            ref.sha256 for manifest in versions if manifest.id in kept for ref in manifest.tensors
        }
        stable = {v for v, why in kept.items() if why == "head" or why.startswith("named")}
        return Plan(
            kept=kept,
            restore=[m for m in versions if m.id in stable and self.missing(m)],
            drop=[
                m
                for m in versions
                if m.id not in kept
                and any(
                    ref.sha256 not in pinned and self.tensor_file(ref.sha256).exists()
                    for ref in m.tensors
                )
            ],
        )

    def drop_tensors(
        self,
        manifest: Manifest,
        thin: Thin,
        newest: int,
        busy: Callable[[], Collection[str]] = tuple,
    ) -> int:
        """Drop the tensors of a version that nothing else needs; return the bytes freed.

        The caller has rebuilt them and checked their hashes, and no version is being written.
        The reasons to keep the version are checked again while they cannot change.
        """
        locks = self.root / "locks"
        with locked(locks / "head"), locked(locks / "names"), locked(locks / "tensors"):
            kept = self.retained(newest, busy())
            if manifest.id in kept:
                return 0
            replace(self._thin_file(manifest.id), encode(thin))
            needed, freed = self._needed(kept), 0
            for ref in {ref.sha256: ref for ref in manifest.tensors}.values():
                path = self.tensor_file(ref.sha256)
                if ref.sha256 not in needed and path.exists():
                    path.unlink()
                    freed += byte_count(ref)
            return freed

    def droppable_bytes(self, plan: Plan) -> dict[str, int]:
        """The most bytes that dropping would free, by version; a shared tensor counts once."""
        pinned = {
            ref.sha256
            for version in plan.kept
            if version != BASE and self.is_readable(version)
            for ref in self.version(version).tensors
        }
        found: dict[str, int] = {}
        for manifest in plan.drop:
            mine = {ref.sha256: ref for ref in manifest.tensors if ref.sha256 not in pinned}
            pinned |= mine.keys()
            there = [ref for ref in mine.values() if self.tensor_file(ref.sha256).exists()]
            found[manifest.id] = sum(map(byte_count, there))
        return found

    def referenced(self) -> Iterator[TensorRef]:
        """Every tensor named by a readable version or a draft of an unfinished job.

        Raises :class:`CorruptFile` for a damaged ``thin.json``.
        """
        drafts = [draft for job in self.unfinished_jobs() for draft in self.drafts(job.id)]
        for manifest in (*self.versions(), *drafts):
            yield from (*manifest.tensors, *manifest.artifacts)
        for manifest in self.versions():
            thin = self.thin(manifest.id)
            yield from thin.refs() if thin else ()

    def forget_wanted(self) -> None:
        """Remove the marks of versions that were not requested lately."""
        with locked(self.root / "locks" / "tensors"):
            current = self._wanted()
            for mark in (self.root / "locks").glob(f"{_WANTED}*"):
                if mark.name.removeprefix(_WANTED) not in current:
                    mark.unlink()

    def _needed(self, kept: Collection[str]) -> set[str]:
        """Hashes that a version which keeps its tensors, or has not been made thin, names."""
        needed = {ref.sha256 for job in self.unfinished_jobs() for d in self.drafts(job.id)
                  for ref in (*d.tensors, *d.artifacts)}  # fmt: skip
        for manifest in self.versions():
            needed |= {ref.sha256 for ref in manifest.artifacts}
            try:
                thin = self.thin(manifest.id)
            except CorruptFile as error:  # its tensors are not among those of versions
                self._say_once(f"{error}")
                thin = None
            needed |= {ref.sha256 for ref in (thin.refs() if thin else ())}
            if manifest.id in kept or thin is None:
                needed |= {ref.sha256 for ref in manifest.tensors}
        return needed

    def _wanted(self) -> set[str]:
        oldest = time.time() - WANTED_S
        marks = (self.root / "locks").glob(f"{_WANTED}*")
        return {m.name.removeprefix(_WANTED) for m in marks if m.stat().st_mtime > oldest}

    def _needed_by_jobs(self, ids: Collection[str]) -> set[str]:
        """Versions that an unfinished job names anywhere in its record."""
        jobs = self.unfinished_jobs()
        said = {text for job in jobs for text in _texts([job.base_version, job.payload])}
        return (said | {v for name, v in self.names().items() if name in said}) & set(ids)

    def _thin_file(self, version_id: str) -> Path:
        if not VERSION_ID.fullmatch(version_id):
            raise ValueError(f"{version_id!r} is no version id")
        return self.root / "versions" / version_id / "thin.json"


def _texts(value: Any) -> Iterator[str]:
    """Every string in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from _texts(list(value.values()))
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
