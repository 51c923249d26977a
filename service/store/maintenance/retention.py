"""Retention: which versions keep their tensors, and how those of the others are dropped.

Factors, keys and manifests are kept permanently; the tensors of an old version can be rebuilt from
them.  A version whose tensors were or may be dropped is *thin*: ``versions/<id>/thin.json`` says
so, and holds the data that make the rebuilding exact on any machine.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

from jeep_core.storage.looking import present
from service.contracts.schemas import Manifest, TensorRef
from service.store.errors import CorruptFile
from service.store.index.committed import is_committed
from service.store.index.database import NoIndex
from service.store.store import Store
from service.store.tensors import byte_count
from service.store.versions import BASE, VERSION_ID, Thin


@dataclass(frozen=True)
class Plan:
    """The versions that must get their tensors back, and those whose tensors can be dropped.

    ``kept`` says why a version keeps its tensors.  Oldest versions first.  ``waiting``: versions
    that need theirs no more, and share them with those that do.  ``ids``: those of ``drop``.
    """

    kept: dict[str, str]
    restore: list[Manifest]
    drop: Sequence[Manifest]
    waiting: list[str]
    ids: frozenset[str]


class _Manifests(Sequence[Manifest]):
    """Versions by id, each read when it is asked for: there may be thousands."""

    def __init__(self, store: Store, ids: Sequence[str]) -> None:
        self._store, self._ids = store, tuple(ids)

    def __len__(self) -> int:
        return len(self._ids)

    @overload
    def __getitem__(self, index: int) -> Manifest: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Manifest]: ...

    def __getitem__(self, index: int | slice) -> Manifest | Sequence[Manifest]:
        if isinstance(index, slice):
            return _Manifests(self._store, self._ids[index])
        return self._store.versions.read(self._ids[index])


def retained_versions(store: Store, newest: int, busy: Collection[str] = ()) -> dict[str, str]:
    """The versions that keep their tensors, with the reason; ``busy`` ones are in memory."""
    why = dict.fromkeys(_newest(store, newest), "among the newest")
    why |= dict.fromkeys(busy, "in memory")
    why |= dict.fromkeys(store.versions.wanted(), "asked for")
    why |= dict.fromkeys(_needed_by_jobs(store), "needed by a job")
    why |= dict.fromkeys(_staged(store), "staged")
    why |= {version: f"named {name}" for name, version in store.names.all().items()}
    return why | {store.head.read().version: "head"}


def _newest(store: Store, count: int) -> list[str]:
    """The newest versions that can be read."""
    try:
        found = {int(one.id[1:]) for one in store.catalogue.beside()}
        before: int | None = None
        while True:
            rows, lost = store.catalogue.newest(before, count, partly=True)
            found.update(row.number for row in rows)
            seen = [*lost, *(row.number for row in rows)]
            if any(one.for_now for one in lost.values()):
                break  # nothing may be dropped: see `Versions.all`
            if not lost or not seen:
                return [f"v{number}" for number in sorted(found, reverse=True)[:count]]
            before = min(seen)
    except NoIndex:
        pass
    return [manifest.id for manifest in store.versions.all()[:count]]


def _staged(store: Store) -> list[str]:
    """Staged versions that were never activated."""
    try:
        if any(one.staged for one in store.catalogue.beside()):
            raise NoIndex("which of them were head is not in the index")
        rows = store.catalogue.staged()
        covered = store.committed.covered(store.head.read().version) if rows else {}
        return [f"v{row.number}" for row in rows if not is_committed(covered, row.line, row.depth)]
    except NoIndex:
        committed = store.head.committed()
        return [m.id for m in store.versions.all() if m.staged and m.id not in committed]


def plan_retention(
    store: Store,
    newest: int,
    busy: Collection[str] = (),
    among: Callable[[dict[str, str]], Collection[str]] | None = None,
) -> Plan:
    """The current plan of retention.

    ``among``: given the versions that keep their tensors, those that may have to drop them; without
    it every version is looked at.
    """
    kept = retained_versions(store, newest, busy)
    stable = {v for v, why in kept.items() if why == "head" or why.startswith("named")}
    readable = [one for one in kept if one != BASE and store.versions.is_readable(one)]
    manifests = {one: store.versions.read(one) for one in sorted(readable, key=_number)}
    pinned = {ref.sha256 for manifest in manifests.values() for ref in manifest.tensors}
    looked_at = None if among is None else {*among(kept)} - {BASE}
    drop, waiting = list[str](), list[str]()
    for version, named in _weights_of(store, looked_at):
        there = {sha256 for sha256 in named if present(store.tensors.path(sha256))}
        if version not in kept and there - pinned:
            drop.append(version)
        elif version not in kept and there and _thin(store, version) is None:
            waiting.append(version)
    drop = [one for one in drop if store.versions.is_readable(one)]
    return Plan(
        kept=kept,
        restore=[m for one, m in manifests.items() if one in stable and store.versions.missing(m)],
        drop=_Manifests(store, drop),
        ids=frozenset(drop),
        waiting=waiting,
    )


def _weights_of(
    store: Store, versions: Collection[str] | None
) -> Iterator[tuple[str, Collection[str]]]:
    """The hashes of the tensors of versions, all if it is None, oldest first."""
    if versions is not None:
        for one in sorted(versions, key=_number):
            if store.versions.is_readable(one):
                yield one, [ref.sha256 for ref in store.versions.read(one).tensors]
        return
    try:
        found = store.catalogue.weights()
    except NoIndex:
        for manifest in reversed(store.versions.all()):
            if manifest.id != BASE:
                yield manifest.id, [ref.sha256 for ref in manifest.tensors]
        return
    for number, named in found.items():
        yield f"v{number}", named


def _number(version: str) -> int:
    return int(version[1:])


def drop_tensors(
    store: Store,
    manifest: Manifest,
    thin: Thin,
    newest: int,
    busy: Callable[[], Collection[str]] = tuple,
) -> int:
    """Drop the tensors of a version that nothing else needs; return the bytes freed.

    The caller has rebuilt them and checked their hashes, and no version is being written.
    The reasons to keep the version are checked again while they cannot change.
    """
    with store.locked("head", "names", "tensors"):
        kept = retained_versions(store, newest, busy())
        if manifest.id in kept:
            return 0
        store.versions.mark_thin(manifest.id, thin)
        needed, freed = _needed(store, kept, manifest), 0
        for ref in {ref.sha256: ref for ref in manifest.tensors}.values():
            path = store.tensors.path(ref.sha256)
            if ref.sha256 not in needed and present(path):
                path.unlink()
                freed += byte_count(ref)
        return freed


def droppable_bytes(store: Store, plan: Plan) -> dict[str, int]:
    """The most bytes that dropping would free, by version; a shared tensor counts once."""
    pinned = {
        ref.sha256
        for version in plan.kept
        if version != BASE and store.versions.is_readable(version)
        for ref in store.versions.read(version).tensors
    }
    found: dict[str, int] = {}
    for manifest in plan.drop:
        mine = {ref.sha256: ref for ref in manifest.tensors if ref.sha256 not in pinned}
        pinned |= mine.keys()
        there = [ref for ref in mine.values() if present(store.tensors.path(ref.sha256))]
        found[manifest.id] = sum(map(byte_count, there))
    return found


def referenced_tensors(store: Store) -> Iterator[TensorRef]:
    """Every tensor named by a readable version or a draft of an unfinished job.

    Raises :class:`CorruptFile` for a damaged ``thin.json``.
    """
    drafts = [draft for job in store.journal.unfinished() for draft in store.drafts.of_job(job.id)]
    for manifest in (*store.versions.all(), *drafts):
        yield from (*manifest.tensors, *manifest.artifacts)
    for manifest in store.versions.all():
        thin = store.versions.thin(manifest.id)
        yield from thin.refs() if thin else ()


def _needed(store: Store, kept: Collection[str], manifest: Manifest) -> set[str]:
    """Hashes of a version's tensors that are needed.

    A version that keeps its tensors, or has not been made thin, names them, or one names them as
    something else.
    """
    needed = {ref.sha256 for job in store.journal.unfinished() for d in store.drafts.of_job(job.id)
              for ref in (*d.tensors, *d.artifacts)}  # fmt: skip
    try:
        others = store.catalogue.beside()
        for sha256 in {ref.sha256 for ref in manifest.tensors}:
            namers = store.catalogue.naming(sha256)
            if any(not whole or _holds(store, kept, number, sha256) for number, whole in namers):
                needed.add(sha256)
        # where the index was made again meanwhile, versions may have left it since `beside`
        others += store.catalogue.beside()
    except NoIndex:
        others = store.versions.all()
    for one in others:
        needed |= {ref.sha256 for ref in one.artifacts}
        thin = _thin(store, one.id)
        needed |= {ref.sha256 for ref in (thin.refs() if thin else ())}
        if one.id in kept or thin is None:
            needed |= {ref.sha256 for ref in one.tensors}
    return needed


def _holds(store: Store, kept: Collection[str], number: int, sha256: str) -> bool:
    """Whether a version that has a tensor among its weights needs its file."""
    version = f"v{number}"
    if version in kept:
        return True
    thin = _thin(store, version)
    return thin is None or any(ref.sha256 == sha256 for ref in thin.refs())


def _thin(store: Store, version: str) -> Thin | None:
    """The record of a thin version; None as well if it is damaged."""
    try:
        return store.versions.thin(version)
    except CorruptFile as error:  # its tensors are not among those of versions
        store.errors.once(f"{error}")
        return None


def _needed_by_jobs(store: Store) -> set[str]:
    """Versions that an unfinished job names anywhere in its record."""
    jobs = store.journal.unfinished()
    said = {text for job in jobs for text in _texts([job.base_version, job.payload])}
    said |= {v for name, v in store.names.all().items() if name in said}
    return {one for one in said if VERSION_ID.fullmatch(one) and store.versions.is_readable(one)}


def _texts(value: Any) -> Iterator[str]:
    """Every string in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from _texts(list(value.values()))
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
