"""The store's exceptions.

StoreError
├ NotAStore, WrongFormat      the directory is something else, or of another format version
│ └ StoreReplaced             … or another store than the one that was opened
├ StoreBusy                   another worker or server holds it
├ WrongModel, WrongRelease    it belongs to another model, its worker is of another release
├ UnknownVersion, UnknownJob  (also KeyError's meaning: 404)
├ VersionExists, JobExists    written twice
├ CorruptFile                 a file of the store is damaged
├ CorruptTensor               bytes are not what their hash says
│ └ MissingTensor             … or are not there at all
├ NotFetched                  the api does not give what is not on this disk
├ HeadMoved, StaleFence       the commit came too late
├ ClaimLost                   another worker has begun the job that this one was doing
├ BadName, NameTaken          snapshot names
├ KeyReused                   an idempotency key came with another body
├ ExportInUse                 a program uses the files where they are (`service.store.exports`)
├ KeyNameTaken, UnknownKey    API keys
└ StoreFull                   the limit of stored bytes does not allow another job
  └ DiskFull                  … or the space left on the disk does not
"""

from __future__ import annotations

import errno
import logging
import os
import re
from collections.abc import Iterable
from pathlib import Path

from jeep_core.errors import Coded
from jeep_core.spec.naming import did_you_mean

log = logging.getLogger(__name__)

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_SAID = re.compile(rf"os error ({'|'.join(map(str, sorted(_FULL)))})\b")


_WRONG_MOUNT = errno.EROFS
_ASIDE = re.compile(r"\.(.+)\.[0-9a-f]+\.(?:tmp|partial)")
"""The name of a file that is written aside, and renamed to what is in it."""


def is_denied(error: BaseException) -> bool:
    """Whether a file may not be read or written by the user of this process, now or later."""
    if not isinstance(error, OSError) or not isinstance(error.filename, str | bytes):
        return False
    return isinstance(error, PermissionError) or error.errno == _WRONG_MOUNT


def denial(error: BaseException, root: Path | None = None) -> str:
    """The sentence about an error that `is_denied`: which file of the store at ``root``, to whom
    it is denied, and what to do.  Of a file elsewhere, or without ``root``, it has the name alone.
    """
    assert isinstance(error, OSError)
    path = Path(os.path.realpath(os.fsdecode(error.filename)))
    if aside := _ASIDE.fullmatch(path.name):
        path = path.with_name(aside[1])
    store = None if root is None else Path(os.path.realpath(root))
    inside = store is not None and path.is_relative_to(store)
    what = path.name
    if store is not None and inside:
        name = path.relative_to(store).as_posix()
        what = "the folder of the store" if name == "." else f"{name} of the store"
    if error.errno == _WRONG_MOUNT:
        return f"{what} cannot be written: its disk is mounted read-only, mount it for writing"
    if error.errno == errno.EPERM:
        return (
            f"{what}: {error.strerror}: its file system or an attribute of the file forbids it to "
            "every user; jeep store check-disk says what a store needs"
        )
    user, group = os.geteuid(), os.getegid()
    advice = (
        "it must be able to read and write every file of the store and to enter every folder: "
        f"as root, chown -R {user}:{group} the store (JEEP_STORE), or run the service as its owner"
        if inside
        else "give it the right to use it"
    )
    reason = error.strerror or "Permission denied"
    return f"{what}: {reason} for the service's user (uid {user}, gid {group}); {advice}"


def is_disk_full(error: BaseException | None) -> bool:
    """Whether this error, or its cause, is a write that exceeded the disk, a quota or a file limit.

    The safetensors library has its own errors, which contain the error number in their text.
    """
    while error is not None:
        number = error.errno if isinstance(error, OSError) else None
        if number in _FULL or _SAID.search(str(error)):
            return True
        error = error.__cause__
    return False


class ErrorLog:
    """Logs each error once in a process, however often it is met."""

    def __init__(self) -> None:
        self._logged: set[str] = set()

    def once(self, message: str) -> None:
        """Log an error unless it has been logged."""
        if message not in self._logged:
            self._logged.add(message)
            log.error("%s", message)


class StoreError(Coded, Exception):
    """Base of the store's own exceptions."""

    code = "store_error"


class NotAStore(StoreError):
    """The directory holds other files instead of a store."""

    code = "not_a_store"


class StoreReplaced(NotAStore):
    """The directory holds another store than the one that this process has opened."""

    code = "store_replaced"


class WrongFormat(StoreError):
    """The store was written in another format version."""

    code = "wrong_format"


class StoreBusy(StoreError):
    """Another process holds the lock."""

    code = "store_busy"


class WrongModel(StoreError):
    """The store belongs to another model."""

    code = "wrong_model"


class UnknownVersion(StoreError):
    """No version has this id or name (``ref``)."""

    code = "unknown_version"

    def __init__(self, ref: str, names: Iterable[str] = ()) -> None:
        super().__init__(f"no version is called {ref!r}{did_you_mean(ref, names, '; ')}")
        self.ref = ref


class UnknownJob(StoreError):
    """No job has this id."""

    code = "unknown_job"

    def __init__(self, job_id: str) -> None:
        super().__init__(f"no job is called {job_id!r}")
        self.job_id = job_id


class VersionExists(StoreError):
    """A version is written once."""

    code = "version_exists"


class JobExists(StoreError):
    """A job is journaled once."""

    code = "job_exists"


class CorruptFile(StoreError):
    """A file of the store cannot be understood; one that cannot be read now is an ``OSError``."""

    code = "corrupt_file"


class CorruptTensor(StoreError):
    """The stored bytes of a tensor do not have the hash they are filed under."""

    code = "corrupt_version"


class MissingTensor(CorruptTensor):
    """A tensor's file is not there."""


class NotFetched(StoreError):
    """Something of a store on another host could not be had from its api, for now."""

    code = "version_not_fetched"


class HeadMoved(StoreError):
    """Head is no longer the version that the caller started from."""

    code = "version_conflict"

    def __init__(self, expected: str, actual: str) -> None:
        super().__init__(f"head is {actual}, not {expected}")
        self.expected = expected
        self.actual = actual


class StaleFence(StoreError):
    """A later worker has moved head since."""

    code = "stale_fence"


class ClaimLost(StoreError):
    """Another worker has begun the job: what this one has of it must be discarded."""

    code = "claim_lost"


class WrongRelease(StoreError):
    """The store's worker is another version of this package."""

    code = "wrong_release"


class BadName(StoreError):
    """Not a snapshot name."""

    code = "bad_name"


class NameTaken(StoreError):
    """The name already belongs to another version (``version``)."""

    code = "name_taken"

    def __init__(self, name: str, version: str) -> None:
        super().__init__(f"{name!r} already names {version}: choose another name")
        self.name = name
        self.version = version


class StoreFull(StoreError):
    """There is no room for the data of another job."""

    code = "store_full"


class DiskFull(StoreFull):
    """The store's disk has too little left."""

    code = "disk_full"


class KeyReused(StoreError):
    """The idempotency key belongs to another request (of job ``job_id``)."""

    code = "idempotency_key_reused"

    def __init__(self, job_id: str) -> None:
        super().__init__(f"this idempotency key was used with another body (job {job_id})")
        self.job_id = job_id


class KeyNameTaken(StoreError):
    """An API key in use has this name."""

    code = "name_taken"


class UnknownKey(StoreError):
    """No API key has this id or name."""

    code = "unknown_key"
