"""Retention: which versions keep their tensors, and how those of the others are dropped.

Factors, keys and manifests are kept permanently; the tensors of an old version can be rebuilt from
them.  A version whose tensors were or may be dropped is *thin*: ``versions/<id>/thin.json`` says
so, and holds the data that make the rebuilding exact on any machine.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

from service.contracts.schemas import Manifest, TensorRef
from service.store.errors import CorruptFile
from service.store.store import Store
from service.store.tensors import byte_count
from service.store.versions import BASE, Thin


@dataclass(frozen=True)
class Plan:
    """The versions that must get their tensors back, and those whose tensors can be dropped.

    ``kept`` says why a version keeps its tensors.  Oldest versions first.
    """

    kept: dict[str, str]
    restore: list[Manifest]
    drop: list[Manifest]


def retained_versions(store: Store, newest: int, busy: Collection[str] = ()) -> dict[str, str]:
    """The versions that keep their tensors, with the reason; ``busy`` ones are in memory."""
    ids = [manifest.id for manifest in store.versions.all()]
    why = dict.fromkeys(ids[:newest], "among the newest")
    why |= dict.fromkeys(busy, "in memory")
    why |= dict.fromkeys(store.versions.wanted(), "asked for")
    why |= dict.fromkeys(_needed_by_jobs(store, set(ids)), "needed by a job")
    committed = store.head.committed()
    staged = (m.id for m in store.versions.all() if m.staged and m.id not in committed)
    why |= dict.fromkeys(staged, "staged")
    why |= {version: f"named {name}" for name, version in store.names.all().items()}
    return why | {store.head.read().version: "head"}


def plan_retention(store: Store, newest: int, busy: Collection[str] = ()) -> Plan:
    """The current plan of retention."""
    kept = retained_versions(store, newest, busy)
    versions = [manifest for manifest in reversed(store.versions.all()) if manifest.id != BASE]
    pinned = {
        ref.sha256 for manifest in versions if manifest.id in kept for ref in manifest.tensors
    }
    stable = {v for v, why in kept.items() if why == "head" or why.startswith("named")}
    return Plan(
        kept=kept,
        restore=[m for m in versions if m.id in stable and store.versions.missing(m)],
        drop=[
            m
            for m in versions
            if m.id not in kept
            and any(
                ref.sha256 not in pinned and store.tensors.path(ref.sha256).exists()
                for ref in m.tensors
            )
        ],
    )


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
        needed, freed = _needed(store, kept), 0
        for ref in {ref.sha256: ref for ref in manifest.tensors}.values():
            path = store.tensors.path(ref.sha256)
            if ref.sha256 not in needed and path.exists():
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
        there = [ref for ref in mine.values() if store.tensors.path(ref.sha256).exists()]
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


def _needed(store: Store, kept: Collection[str]) -> set[str]:
    """Hashes that a version which keeps its tensors, or has not been made thin, names."""
    needed = {ref.sha256 for job in store.journal.unfinished() for d in store.drafts.of_job(job.id)
              for ref in (*d.tensors, *d.artifacts)}  # fmt: skip
    for manifest in store.versions.all():
        needed |= {ref.sha256 for ref in manifest.artifacts}
        try:
            thin = store.versions.thin(manifest.id)
        except CorruptFile as error:  # its tensors are not among those of versions
            store.errors.once(f"{error}")
            thin = None
        needed |= {ref.sha256 for ref in (thin.refs() if thin else ())}
        if manifest.id in kept or thin is None:
            needed |= {ref.sha256 for ref in manifest.tensors}
    return needed


def _needed_by_jobs(store: Store, ids: Collection[str]) -> set[str]:
    """Versions that an unfinished job names anywhere in its record."""
    jobs = store.journal.unfinished()
    said = {text for job in jobs for text in _texts([job.base_version, job.payload])}
    return (said | {v for name, v in store.names.all().items() if name in said}) & set(ids)


def _texts(value: Any) -> Iterator[str]:
    """Every string in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from _texts(list(value.values()))
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
