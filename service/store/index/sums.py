"""Running sums of long lines of versions: what an edit needs of all that it is built on.

A matrix of a version is the base's and all updates of its line, summed in blocks.  The sum after
whole blocks is a file here, so that the next version needs the updates since then alone.
"""

from __future__ import annotations

import errno
import logging
import shutil
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import BaseModel, Field

from jeep_core.storage.looking import files_below, listed, present
from service.contracts.schemas import Manifest, TensorRef
from service.store.errors import CorruptFile
from service.store.files import encode, read, replace
from service.store.index.database import FOLDER as INDEX
from service.store.tensors import Tensors

log = logging.getLogger(__name__)

FOLDER = "sums"
"""Of the index."""
EVERY = 64
"""Versions of a line after which its state is written again."""
KEPT = 2
"""States that have files; a line goes on from its newest one."""
REBUILT = 1
"""Further ones, of versions that are only rebuilt: many of these must not push the others out."""
REMEMBERED = 64
MAPPED = 32
"""Sums that are mapped into memory: their pages are the system's to take back."""
SPARE_BYTES = 256 * 2**20
"""So much room is left to others where sums are written."""


class Summed(BaseModel):
    """One matrix after a version: ``total`` is the sum after whole blocks, None before the first.

    ``since``: the tensors of every update after that, oldest first.
    """

    total: TensorRef | None = None
    since: list[list[TensorRef]] = Field(default_factory=list)


class Running(BaseModel):
    """All matrices that a line has changed, by name, after one of its versions.

    ``age``: versions of the line since the last state that was written.  ``rebuilt``: the version
    was not edited on, but made again.
    """

    version: str
    weights_sha256: str
    matrices: dict[str, Summed] = Field(default_factory=dict)
    age: int = 0
    rebuilt: bool = False


class Sums:
    """States of lines (``store.sums``), in memory and as files; only the worker writes them.

    ``read_only``: nothing is kept but in memory.  What is damaged and cannot be removed is passed
    over.

    Whatever is missing or damaged is made again from the versions.  Safe to use from threads.
    """

    def __init__(self, root: Path, *, read_only: bool = False) -> None:
        self._folder, self.read_only = root / INDEX / FOLDER, read_only
        self._passed_over: set[str] = set()
        self._tensors = Tensors(self._folder)
        self._known: OrderedDict[str, Running] = OrderedDict()
        self._rebuilt: OrderedDict[str, Running] = OrderedDict()
        self._mapped: OrderedDict[str, memoryview] = OrderedDict()
        # by thread: the totals of a state that it is about to write
        self._unnamed: dict[int, set[str]] = {}
        self._lock = threading.RLock()

    def find(self, manifest: Manifest) -> Running | None:
        """The state after a version, None if it is not known."""
        with self._lock:
            found = self._remembered(manifest.id) or self._written(manifest.id)
            if found is None or found.weights_sha256 != manifest.weights_sha256:
                return None
            self.remember(found)
            return found

    def remember(self, running: Running) -> None:
        """Keep a state in memory; the least recently used one goes."""
        with self._lock:
            states = self._rebuilt if running.rebuilt else self._known
            states[running.version] = running
            states.move_to_end(running.version)
            while len(states) > REMEMBERED:
                states.popitem(last=False)

    @contextmanager
    def adding(self, before: Running) -> Iterator[None]:
        """Keep the sums of a state, and those that this thread puts meanwhile for the next one.

        Other threads may save states of their own, upon which files that no state names go.
        """
        thread = threading.get_ident()
        with self._lock:
            self._unnamed[thread] = _totals(before)
        try:
            yield
        finally:
            with self._lock:
                del self._unnamed[thread]

    def save(self, running: Running) -> None:
        """Write a state; the oldest files go.

        Raises:
            OSError: there is no room.
        """
        with self._lock:
            self._folder.mkdir(parents=True, exist_ok=True)
            replace(self._file(running.version), encode(running))
            self.tidy()

    def put(self, name: str, shape: Sequence[int], data: bytes | memoryview) -> TensorRef:
        """Write the float64 sum of a matrix, which a state is about to name: see `adding`.

        Raises:
            OSError: there is no room.
        """
        with self._lock:
            for part in ("tensors", "staging"):
                (self._folder / part).mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self._folder).free
            if free < 2 * memoryview(data).nbytes + SPARE_BYTES:
                raise OSError(f"{free:,} bytes are free, too few for the running sum of {name}")
            found = self._tensors.put(name, "F64", shape, data)
            self._passed_over.discard(found.sha256)
            self._unnamed.get(threading.get_ident(), set()).add(found.sha256)
            return found

    def total(self, ref: TensorRef) -> memoryview:
        """The bytes of a sum, verified when they are first read.

        Raises:
            CorruptTensor, MissingTensor: the file is damaged, or gone; see `drop`.
        """
        with self._lock:
            found = self._mapped.get(ref.sha256)
            if found is None:
                found = self._mapped[ref.sha256] = self._tensors.map(ref)
            self._mapped.move_to_end(ref.sha256)
            while len(self._mapped) > MAPPED:
                self._mapped.popitem(last=False)
            return found

    def drop(self, ref: TensorRef) -> None:
        """Forget a damaged sum and the states that name it."""
        with self._lock:
            every = [*self._known.values(), *self._rebuilt.values(), *self._files()]
            for running in every:
                if ref.sha256 in _totals(running):
                    self._known.pop(running.version, None)
                    self._rebuilt.pop(running.version, None)
                    self._remove(self._file(running.version))
            self._mapped.pop(ref.sha256, None)
            self._remove(self._tensors.path(ref.sha256))
            # a follower removes nothing, and on a disk that has become read-only nobody can
            if present(self._tensors.path(ref.sha256)):
                self._passed_over.add(ref.sha256)

    def tidy(self) -> int:
        """Remove files that no state needs, and all states but the newest; return their number."""
        with self._lock:
            files = sorted(self._files(), key=lambda one: self._written_at(one.version))
            kept = [one for one in files if not one.rebuilt][-KEPT:]
            kept += [one for one in files if one.rebuilt][-REBUILT:]
            needed = {self._file(one.version) for one in kept}
            totals = set[str]().union(*map(_totals, kept), *self._unnamed.values())
            needed |= {self._tensors.path(sha256) for sha256 in totals}
            others = {Path(entry.path) for entry in files_below(self._folder)} - needed
            for path in others:
                path.unlink(missing_ok=True)
            # a file that is mapped takes its room on the disk until it is not
            for sha256 in self._mapped.keys() - totals:
                del self._mapped[sha256]
            return len(others)

    def _remembered(self, version: str) -> Running | None:
        """A state in memory; one of which a sum has been removed is forgotten."""
        found = self._known.get(version) or self._rebuilt.get(version)
        if found is not None and not self._has_sums_of(found):
            for states in (self._known, self._rebuilt):
                states.pop(version, None)
            return None
        return found

    def _written(self, version: str) -> Running | None:
        path = self._file(version)
        try:
            found = read(path, Running)
        except CorruptFile as error:
            log.warning("%s: it is made again", error)
            self._remove(path)
            return None
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            log.warning("%s cannot be read, it is made again: %s", path, error)
            return None
        if found is None or self._passed_over.intersection(_totals(found)):
            return None
        return found if self._has_sums_of(found) else None

    def _has_sums_of(self, running: Running) -> bool:
        refs = [one.total for one in running.matrices.values() if one.total is not None]
        return all(self._tensors.has(ref) for ref in refs)

    def _remove(self, path: Path) -> None:
        """Remove a damaged file, where this process may."""
        if not self.read_only:
            with suppress(OSError):
                path.unlink(missing_ok=True)

    def _files(self) -> list[Running]:
        found = (self._written(path.stem) for path in listed(self._folder, "v*.json"))
        return [one for one in found if one is not None]

    def _file(self, version: str) -> Path:
        return self._folder / f"{version}.json"

    def _written_at(self, version: str) -> tuple[int, int]:
        return self._file(version).stat().st_mtime_ns, int(version[1:])


def _totals(running: Running) -> set[str]:
    return {one.total.sha256 for one in running.matrices.values() if one.total is not None}
