"""Removal of files that crashes have left behind and of those that nothing refers to."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain
from pathlib import Path

from jeep_core.storage.looking import is_folder, listed, present, walked
from jeep_core.storage.records import unsealed
from service.contracts.jobs import TERMINAL, JobStatus
from service.store.errors import CorruptFile, UnknownJob, UnknownVersion
from service.store.files import is_unfinished
from service.store.index.database import NoIndex
from service.store.index.rows import stamp_of
from service.store.journal import OPEN
from service.store.maintenance.retention import referenced_tensors
from service.store.store import FOLDERS, Store

_ABANDONED_S = 3600.0
_HASH = re.compile(rb"[0-9a-f]{64}")


def sweep(store: Store) -> int:
    """Remove files left behind by crashes; return their number.  Needs the store's worker lock.

    As `sweep_own`, then as `sweep_orphans`.
    """
    return sweep_own(store) + sweep_orphans(store)


def sweep_own(store: Store) -> int:
    """Remove what an earlier worker has left, without a look at all versions; return the number.

    The staging folder belongs to the worker and is emptied; of the running sums those that nothing
    needs are removed, and what jobs have left that ended.
    """
    staged = listed(store.root / "staging")
    return _remove(staged) + store.sums.tidy() + _remove(_of_ended_jobs(store))


def sweep_orphans(store: Store) -> int:
    """Remove unreferenced files; return their number.  No version may be written meanwhile.

    These are partial results of jobs that have ended, reports and exports of jobs that did not
    succeed, tensors that neither a version nor a draft names, marks of jobs without a record, and
    other processes' unfinished files when they are an hour old.
    """
    return _remove(leftovers(store)) + store.journal.tidy()


def leftovers(store: Store) -> list[Path]:
    """The files that :func:`sweep_orphans` removes; of one being written it cannot be known yet."""
    found = _of_ended_jobs(store)
    found += _unreferenced_tensors(store)
    oldest = time.time() - _ABANDONED_S
    found += [path for path in _unfinished(store) if _is_older(path, oldest)]
    jobs = store.root / "jobs"
    beside = (listed(jobs, f"*.{mark}") for mark in ("open", "cancel", "claim"))
    marks = chain(listed(jobs / OPEN), *beside)
    alone = (p for p in marks if not present(jobs / f"{p.stem}.json"))
    found += [path for path in alone if _is_older(path, oldest)]
    return found


def _of_ended_jobs(store: Store) -> list[Path]:
    """Partial results of jobs that have ended, reports and exports of those that failed."""
    # listed before the needed ones are determined, so a job that begins meanwhile loses nothing
    work = listed(store.root / "work")
    store.journal.adopt_marks()
    unfinished = {job.id for job in store.journal.unfinished()}
    found = [p for p in work if p.name not in unfinished]
    found += [p for p in listed(store.root / "reports") if _is_orphan(store, p.name)]
    return [*found, *store.exports.leftovers(partial(_is_orphan, store), unfinished)]


def _unfinished(store: Store) -> Iterator[Path]:
    """Files that are or were being written; folders may vanish meanwhile."""
    ours = (store.root / name for name in FOLDERS if name not in ("training", "valkey"))
    beside = (path for path in listed(store.root, ".*") if not is_folder(path))
    walks = chain.from_iterable(walked(one, onerror=None) for one in ours)
    below = (Path(folder, name) for folder, _, names in walks for name in names)
    for path in chain(beside, below):
        if is_unfinished(path.name):
            yield path


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
    files = _not_in_the_index(store, listed(store.root / "tensors", "*.safetensors", within="*"))
    if not files:
        return []
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


def _not_in_the_index(store: Store, files: list[Path]) -> list[Path]:
    """The tensors that neither the index nor a thin version names: most often none.

    They are not removed on the word of an index: all records are read first.
    """
    try:
        known = store.catalogue.named()
        files = [path for path in files if path.stem.encode() not in known]
        if files:
            for number in store.versions.numbers():
                with suppress(FileNotFoundError):
                    thin = store.root / "versions" / f"v{number}" / "thin.json"
                    known.update(_HASH.findall(thin.read_bytes()))
    except (NoIndex, OSError):
        return files
    return [path for path in files if path.stem.encode() not in known]


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
        drafts = (listed(job / "drafts", "*.json") for job in listed(store.root / "work"))
        for draft in chain.from_iterable(drafts):
            found.update(_HASH.findall(draft.read_bytes()))
    except (NoIndex, CorruptFile, UnknownVersion, OSError, ValueError):
        return None
    return {one.decode() for one in found}


def _is_older(path: Path, moment: float) -> bool:
    try:
        return path.lstat().st_mtime < moment
    except FileNotFoundError:  # its writer has just renamed it, or its job has ended
        return False


def _remove(paths: Sequence[Path]) -> int:
    for path in paths:
        if is_folder(path):
            shutil.rmtree(path, ignore_errors=True)  # its job may be removing it as well
        else:
            path.unlink(missing_ok=True)
    return len(paths)
