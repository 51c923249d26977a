"""``jeep store du``: the disk usage of a store by kind of file."""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from jeep_core.storage.looking import files_below
from service.store.base.files import FOLDER
from service.store.errors import CorruptFile
from service.store.exports import FOLDER as EXPORTS
from service.store.index.database import FOLDER as INDEX
from service.store.index.sums import FOLDER as SUMS_FOLDER
from service.store.maintenance.room import size_of
from service.store.store import Store
from service.store.versions import SET_ASIDE

TENSORS = "tensors of versions"
FACTORS = "factors"
KEYS = "keys"
STATES = "states of editors"
TIES = "ties of thin versions"
ORPHANS = "tensors that nothing names"
SUMS = "running sums of long lines"
BY_PREFIX = {"keys": KEYS, "state": STATES}
"""The beginning of an artifact's name → what it is; the rest are factors."""
KINDS = {
    "versions": "manifests",
    SET_ASIDE: "damaged versions set aside",
    "jobs": "job records",
    "work": "partial results of jobs",
    "reports": "reports of jobs",
    EXPORTS: "exported versions",
    "suites": "suites",
    "training": "training data",
    "keys": "API keys",
    "targets": "targets and what they read",
    INDEX: "index of versions and jobs",
    "valkey": "queue server",
    "staging": "unfinished files",
}
"""Folder → what it holds; the rest is ``other``."""


@dataclass
class Used:
    """Files and bytes of one kind."""

    files: int = 0
    bytes: int = 0


def usage(store: Store) -> dict[str, Used]:
    """Files and bytes by kind, the largest first."""
    kinds = _tensor_kinds(store)
    found: dict[str, Used] = defaultdict(Used)
    for entry in files_below(store.root):
        parts = Path(entry.path).relative_to(store.root).parts
        kind = _kind(parts)
        if parts[0] == "tensors":
            kind = kinds.get(Path(entry.name).stem, ORPHANS)
        found[kind].files += 1
        found[kind].bytes += size_of(entry)
    return dict(sorted(found.items(), key=lambda item: -item[1].bytes))


def _kind(parts: tuple[str, ...]) -> str:
    if parts[0] == FOLDER and len(parts) > 2:
        return f"base model: {parts[1]}"
    if parts[:2] == (INDEX, SUMS_FOLDER):
        return SUMS
    return KINDS.get(parts[0], "other") if len(parts) > 1 else "other"


def _tensor_kinds(store: Store) -> dict[str, str]:
    """The kind of each stored tensor, by its hash."""
    kinds: dict[str, str] = {}
    drafts = [draft for job in store.journal.unfinished() for draft in store.drafts.of_job(job.id)]
    for manifest in (*store.versions.all(), *drafts):
        for ref in manifest.artifacts:
            kinds[ref.sha256] = BY_PREFIX.get(ref.name.partition(".")[0], FACTORS)
        kinds |= {ref.sha256: TENSORS for ref in manifest.tensors}
    for manifest in store.versions.all():
        with suppress(CorruptFile):  # its ties count as tensors that nothing names
            thin = store.versions.thin(manifest.id)
            kinds |= {ref.sha256: TIES for ref in (thin.refs() if thin else ())}
    return kinds
