"""Retention in the worker: drops tensors of old versions and removes unreferenced files.

It runs in a separate thread beside the lanes.  Rebuilding a version, which shows whether its
tensors may be dropped, takes as long as writing it did; dropping takes only a moment, during
which no version may be written.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from jeep_core.errors import Coded
from jeep_core.models.loading import LoadedModel
from service.contracts.schemas import Manifest
from service.store import CorruptFile, CorruptTensor, Store, StoreError
from service.store.maintenance.retention import Plan, drop_tensors, plan_retention
from service.store.maintenance.sweep import leftovers, sweep_orphans
from service.worker.gate import Gate
from service.worker.versions import rebuild

log = logging.getLogger(__name__)
EVERY_S = 600.0
"""A round is due after every write job, and after this time at the latest."""
LOOK_S = 0.5


class Interrupted(Coded, Exception):
    """The worker is stopping, or is no longer the store's worker."""

    code = "stopping"


@dataclass
class Round:
    """The result of one round: versions whose tensors were dropped, with the bytes freed."""

    dropped: dict[str, int] = field(default_factory=dict)
    restored: list[str] = field(default_factory=list)
    removed_files: int = 0


class Keeper:
    """Keeps the store within the limits of retention.

    ``busy`` gives the versions that are in memory; ``lost`` says whether another worker has taken
    over; ``give_way`` waits while something is decoded; ``look`` is called before every round.
    """

    def __init__(
        self,
        base: LoadedModel,
        store: Store,
        newest: int,
        busy: Callable[[], Collection[str]] = tuple,
        lost: Callable[[], bool] = lambda: False,
        give_way: Callable[[], None] = lambda: None,
        look: Callable[[], None] = lambda: None,
        exports: int = 10,
    ) -> None:
        self._base, self._store, self._newest = base, store, newest
        self._exports = exports
        self._busy, self._lost, self._give_way, self._look = busy, lost, give_way, look
        self._writes, self._due = threading.Lock(), threading.Event()
        self._whole = threading.Event()
        self._unfit: set[str] = set()
        # versions that have had tensors since they were last looked at; None: nobody knows yet
        self._watched: set[str] | None = None
        self._newest_seen = 0
        self.stop = threading.Event()

    def run(self) -> None:
        """Thread body: a round when one is due, until stopped.  Errors are logged.

        Orphans are looked for at the start, after a job that failed and every ten minutes, not
        after each commit.
        """
        began = time.monotonic()
        self.due(whole=True)
        while not self.stop.is_set():
            late = time.monotonic() - began >= EVERY_S
            if not self._due.wait(LOOK_S) and not late:
                continue
            self._due.clear()
            # set after this look, it is for the next round, or for this one, which has not begun
            whole = self._whole.is_set() or late
            if whole:
                self._whole.clear()
                began, self._watched = time.monotonic(), None
            try:
                self._look()
                self.collect(orphans=whole)
            except Interrupted:
                continue
            except (StoreError, OSError) as error:
                log.error("retention: %s", error)
            except Exception:
                log.exception("retention failed, nothing was dropped")

    def due(self, *, whole: bool = False) -> None:
        """Let a round begin; ``whole``: a job has ended that may have left something."""
        if whole:
            self._whole.set()
        self._due.set()

    @contextmanager
    def writing(self, gate: Gate) -> Iterator[None]:
        """Mark that a job that writes versions is running: nothing is removed meanwhile."""
        with self._writes, gate.writing():
            yield

    def collect(self, *, orphans: bool = True) -> Round:
        """One round.

        The first one looks at every version, later ones at those that may have to drop their
        tensors since.  ``orphans``: also remove what nothing refers to.

        Raises:
            Interrupted: ``stop`` was set, or the lease is gone.
            StoreError, OSError: the store cannot be read or written.
        """
        done = Round()
        if orphans:
            done.removed_files = self._swept()
        plan = self._plan()
        for manifest in plan.restore:
            self._step()
            if self._restored(manifest):
                done.restored.append(manifest.id)
        for manifest in plan.drop:
            if manifest.id not in self._unfit:
                freed = self._dropped(manifest)
                if freed is not None:
                    done.dropped[manifest.id] = freed
        self._store.versions.forget_wanted()
        self._store.exports.retire(self._exports)
        if done.dropped:
            free = sum(done.dropped.values())
            log.info("tensors of %s dropped, %s bytes", ", ".join(done.dropped), f"{free:,}")
        left = plan.ids - self._unfit - done.dropped.keys()
        self._watched = {*plan.kept, *plan.waiting, *left}
        return done

    def _plan(self) -> Plan:
        """The plan for all versions, or for those that were kept so far and new ones."""
        watched, seen = self._watched, self._newest_seen
        self._watched = None  # until the round has come to its end
        versions = self._store.versions
        given = None if watched is None else versions.given_since(seen)
        numbers = versions.numbers() if given is None else {*filter(versions.is_there, given)}
        self._newest_seen = max(numbers, default=seen)
        if watched is None:
            return plan_retention(self._store, self._newest, self._busy())
        new = (f"v{number}" for number in numbers if number > seen)
        candidates = watched.union(new)
        return plan_retention(
            self._store, self._newest, self._busy(), lambda kept: candidates - {*kept}
        )

    def _swept(self) -> int:
        """Remove orphans; versions are written meanwhile unless there are some."""
        if not leftovers(self._store):
            return self._store.journal.tidy()
        with self._nothing_written():
            if self._lost():
                raise Interrupted
            return sweep_orphans(self._store)

    def _restored(self, manifest: Manifest) -> bool:
        try:
            loaded = rebuild.load(self._base, self._store, manifest)
            rebuild.restore(self._store, manifest, loaded)
        except (CorruptTensor, CorruptFile) as error:
            log.error("%s is not whole: %s", manifest.id, error)
            return False
        return True

    def _dropped(self, manifest: Manifest) -> int | None:
        """Rebuild a version and drop its tensors; the bytes freed, None if they must be kept."""
        try:
            thin = rebuild.matched(self._base, self._store, manifest, self._step)
        except (CorruptTensor, CorruptFile) as error:
            log.error("%s keeps its tensors: %s", manifest.id, error)
            self._unfit.add(manifest.id)
            return None
        except OSError as error:  # the next round tries again
            log.error("%s keeps its tensors for now: %s", manifest.id, error)
            return None
        with self._nothing_written():
            self._step()
            return drop_tensors(self._store, manifest, thin, self._newest, self._busy) or None

    def _step(self) -> None:
        if self.stop.is_set() or self._lost():
            raise Interrupted
        self._give_way()

    @contextmanager
    def _nothing_written(self) -> Iterator[None]:
        """Wait for the end of a job that writes versions, and keep the next one from beginning."""
        while not self._writes.acquire(timeout=LOOK_S):
            if self.stop.is_set():
                raise Interrupted
        try:
            yield
        finally:
            self._writes.release()
