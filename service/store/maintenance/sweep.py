"""Removal of files that crashes have left behind and of those that nothing refers to."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain
from pathlib import Path

from jeep_core.storage.records import unsealed
from service.contracts.jobs import TERMINAL, JobStatus
from service.store.errors import CorruptFile, UnknownJob, UnknownVersion
from service.store.files import TEMPORARY
from service.store.index.database import NoIndex
from service.store.index.rows import stamp_of
from service.store.maintenance.retention import referenced_tensors
from service.store.store import FOLDERS, Store

PARTIAL = ".partial"
"""Suffix of what ``jeep_core.storage.files`` is writing."""
_ABANDONED_S = 3600.0
_HASH = re.compile(rb"[0-9a-f]{64}")


def sweep(store: Store) -> int:
    """Remove files left behind by crashes; return their number.  Needs the store's worker lock.

    The staging folder belongs to the worker and is emptied, and of the running sums those that
    nothing needs are removed; then as :func:`sweep_orphans`.
    """
    staged = list((store.root / "staging").iterdir())
    return _remove(staged) + store.sums.tidy() + sweep_orphans(store)


def sweep_orphans(store: Store) -> int:
    """Remove unreferenced files; return their number.  No version may be written meanwhile.

    These are partial results of jobs that have ended, reports and exports of jobs that did not
    succeed, tensors that neither a version nor a draft names, marks of jobs without a record, and
    other processes' unfinished files when they are an hour old.
    """
    return _remove(leftovers(store)) + store.journal.tidy()


def leftovers(store: Store) -> list[Path]:
    """The files that :func:`sweep_orphans` removes; of one being written it cannot be known yet."""
    # listed before the needed ones are determined, so a job that begins meanwhile loses nothing
    work = list((store.root / "work").iterdir())
    unfinished = {job.id for job in store.journal.unfinished()}
    found = [p for p in work if p.name not in unfinished]
    found += [p for p in (store.root / "reports").iterdir() if _is_orphan(store, p.name)]
    found += store.exports.leftovers(partial(_is_orphan, store), unfinished)
    found += _unreferenced_tensors(store)
    oldest = time.time() - _ABANDONED_S
    found += [path for path in _unfinished(store) if _is_older(path, oldest)]
    marks = ((store.root / "jobs").glob(f"*.{mark}") for mark in ("open", "cancel", "claim"))
    alone = (p for some in marks for p in some if not p.with_suffix(".json").exists())
    found += [p for p in alone if p.lstat().st_mtime < oldest]
    return found


def _unfinished(store: Store) -> Iterator[Path]:
    """Files that are or were being written; folders may vanish meanwhile."""
    ours = (store.root / name for name in FOLDERS if name not in ("training", "valkey"))
    walks = ([next(os.walk(store.root))], *map(os.walk, ours))
    for folder, _, names in chain.from_iterable(walks):
        for name in names:
            if name.startswith(".") and name.endswith((TEMPORARY, PARTIAL)):
                yield Path(folder, name)


def _is_orphan(store: Store, job_id: str) -> bool:
    """Whether no job with this id runs or has succeeded; an unreadable record may be one's."""
    try:
        job = store.journal.read(job_id)
    except UnknownJob:
        return True
    except CorruptFile:
        return False
    return job.status in TERMINAL and job.status is not JobStatus.SUCCEEDED


def _unreferenced_tensors(store: Store) -> list[Path]:
    files = list((store.root / "tensors").glob("*/*.safetensors"))
    named = _hashes(store)
    if named is None:
        if damaged := store.versions.damaged():  # it is unknown which tensors they need
            store.errors.once(
                f"no tensors are tidied away while {', '.join(damaged)} cannot be read: see "
                "jeep store verify"
            )
            return []
        try:
            named = {ref.sha256 for ref in referenced_tensors(store)}
        except CorruptFile as error:
            store.errors.once(f"no tensors are tidied away: {error}")
            return []
    return [path for path in files if path.stem not in named]


def _hashes(store: Store) -> set[str] | None:
    """Every hash in the records of versions and drafts; None if they must be read one by one.

    Whatever a record says of it, a tensor whose hash occurs is not removed.  Records are parsed
    only if they were written since the index was, but each must have the seal it was written with.
    """
    found: set[bytes] = set()
    try:
        stamps = store.catalogue.stamps()
        for number in store.versions.numbers():
            folder = store.root / "versions" / f"v{number}"
            if stamps.get(number) != stamp_of(folder / "manifest.json"):
                store.versions.parsed(f"v{number}")
            found.update(_HASH.findall(unsealed((folder / "manifest.json").read_bytes())))
            with suppress(FileNotFoundError):
                found.update(_HASH.findall(unsealed((folder / "thin.json").read_bytes())))
        for draft in (store.root / "work").glob("*/drafts/*.json"):
            found.update(_HASH.findall(draft.read_bytes()))
    except (NoIndex, CorruptFile, UnknownVersion, OSError, ValueError):
        return None
    return {one.decode() for one in found}


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
