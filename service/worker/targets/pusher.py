"""The pusher: looks after all targets, beside the lanes.

It reads head and names and never changes them.  A thread of its own looks several times a second
what each target should have, which takes a fraction of a millisecond; a target that is to be looked
after gets a thread for that long, so that none waits for another and no lane waits for any.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from jeep_core.errors import Coded, JeepError, reason_of
from jeep_core.executors.threads import use_threads
from service.contracts.jobs import now
from service.contracts.schemas.access import AuditEntry
from service.contracts.schemas.targets import TargetError, TargetRecord
from service.ops.addresses import Allowed
from service.settings import Settings
from service.store import Store, StoreError, is_disk_full
from service.store.targets.status import wanted_version
from service.worker.metrics import PUSHES
from service.worker.outgoing.foreign_text import readable
from service.worker.targets.connection import Connection, TargetFailed
from service.worker.targets.kinds import SERVERS
from service.worker.targets.sync import Sync
from service.worker.targets.workshop import Workshop

log = logging.getLogger(__name__)

LOOK_S = 0.25
"""How often it is looked whether something is to be done."""
EVERY_S = 10.0
"""How often a server that has what it should have is asked whether it still does."""
LONGEST_S, LONGEST_LASTING_S = 60.0, 600.0
"""Between two tries at most; after an error that somebody has to see to."""
LASTING = {"missing_program"}
"""Codes of errors of the library that last until somebody has done something."""
PATIENCE_S = 600.0
"""How long it is tried to clear up after a target that was removed."""
JOIN_S = 3.0
"""How long tries that are under way are waited for at the end; they may be cut off anywhere."""


class Ending(Coded, Exception):
    """The worker is stopping, or is no longer the store's worker."""

    code = "stopping"


@dataclass
class Care:
    """The knowledge of one target between two tries.

    ``basis`` is what is wanted: its settings and the version; ``tried`` what the last try was
    about; ``due`` a time of the monotonic clock.
    """

    basis: tuple[TargetRecord, str | None]
    sync: Sync
    due: float = 0.0
    tried: tuple[TargetRecord, str | None] | None = None
    thread: threading.Thread | None = None


class Pusher:
    """Brings every target to the version that it follows.

    ``lost`` says whether another worker has taken over.
    """

    def __init__(
        self,
        store: Store,
        settings: Settings,
        shop: Workshop,
        lost: Callable[[], bool] = lambda: False,
    ) -> None:
        self._store, self._settings, self._shop, self._lost = store, settings, shop, lost
        self._allowed = Allowed(settings.targets_allow)
        self._cares: dict[str, Care] = {}
        self._swept = False
        self.stop = threading.Event()
        shop.check = self.check

    def run(self) -> None:
        """Thread body, until stopped.  Errors are logged: none ends the worker."""
        pause_s = LOOK_S
        while not self.stop.wait(pause_s):
            try:
                self.look()
                pause_s = LOOK_S
            except Exception:
                log.exception("targets could not be looked after")
                pause_s = min(2 * pause_s, EVERY_S)
        end = time.monotonic() + JOIN_S
        for care in self._cares.values():
            if care.thread is not None:
                care.thread.join(max(0.0, end - time.monotonic()))

    def look(self) -> None:
        """Start what is due."""
        if self._lost():
            return
        records = self._store.targets.with_removed()
        if not self._swept:
            self._sweep()
            self._swept = True
        for record in records:
            care = self._care(record)
            if care.thread is not None and care.thread.is_alive():
                continue
            asked = self._store.targets.take_asked(record.id)
            if asked or time.monotonic() >= care.due:
                self._start(record, care, asked)
        for target_id in self._cares.keys() - {record.id for record in records}:
            del self._cares[target_id]

    def _care(self, record: TargetRecord) -> Care:
        """The knowledge of a target; something new about it makes it due at once."""
        basis = (record, wanted_version(self._store, record))
        care = self._cares.get(record.id)
        if care is None or care.basis[0] != record:
            running = care.thread if care else None
            care = self._cares[record.id] = Care(basis, self._sync(record), thread=running)
        elif care.basis != basis:
            care.basis, care.due = basis, 0.0
        return care

    def _sync(self, record: TargetRecord) -> Sync:
        settings = self._settings
        connection = Connection(
            record, self._allowed, settings.targets_secrets, settings.targets_timeout_s
        )
        server = SERVERS[record.kind](record, connection)
        return Sync(self._shop, self._store, record, server, self._reach)

    def _reach(self, place: str) -> None:
        """Called before every step that changes something."""
        self.check()

    def check(self) -> None:
        """Raise `Ending` if the work is to end."""
        if self.stop.is_set() or self._lost():
            raise Ending

    def _start(self, record: TargetRecord, care: Care, asked: bool) -> None:
        care.due, care.tried = time.monotonic() + EVERY_S, care.basis
        care.thread = threading.Thread(
            target=self._try, args=(record, care, asked), name=f"targets {record.name}", daemon=True
        )
        care.thread.start()

    def _try(self, record: TargetRecord, care: Care, asked: bool) -> None:
        """Thread body of one try."""
        use_threads(1)
        try:
            self._attempt(record, care, asked)
        except Exception:  # the next look tries again
            log.exception("target %s: the outcome of a try could not be recorded", record.name)

    def _attempt(self, record: TargetRecord, care: Care, asked: bool) -> None:
        """One try; its outcome is recorded."""
        try:
            if record.removed:
                care.sync.clear()
                log.info("target %s is removed", record.name)
            elif care.sync.run(asked):
                self._note(record, None)
        except Ending:
            return
        except (TargetFailed, StoreError, JeepError, OSError) as error:
            code = "disk_full" if is_disk_full(error) else getattr(error, "code", "failed")
            lasting = getattr(error, "lasting", False) or code in LASTING
            self._failed(record, care, code, str(error), lasting)
        except Exception as error:
            log.exception("target %s", record.name)
            said = f"{type(error).__name__}: {reason_of(error)}"
            self._failed(record, care, "internal_error", said, lasting=False)
        # after a failure, too: what head was before is not wanted any more
        self._sweep()

    def _failed(
        self, record: TargetRecord, care: Care, code: str, message: str, lasting: bool
    ) -> None:
        """Record an error and when to try again; one that repeats is logged once."""
        targets, moment, message = self._store.targets, now(), readable(message)
        state = targets.state(record.id)
        before = state.error
        same = before is not None and before.code == code
        tries = before.tries + 1 if before is not None else 1
        first, longest = (30.0, LONGEST_LASTING_S) if lasting else (1.0, LONGEST_S)
        delay = min(longest, first * 2 ** min(tries - 1, 10))
        error = TargetError(
            code=code,
            message=message,
            since=before.since if before is not None else moment,
            tries=tries,
            next_at=moment + timedelta(seconds=delay),
        )
        if care.basis == care.tried:  # else head has moved meanwhile, and it is due at once
            care.due = time.monotonic() + delay
        if record.removed and moment - error.since > timedelta(seconds=PATIENCE_S):
            log.error("target %s is removed, and was not cleared up: %s", record.name, message)
            targets.forget(record.id)
            return
        try:
            targets.set_state(
                record.id, state.model_copy(update={"error": error, "looked_at": moment})
            )
        except OSError as full:
            log.error("target %s: %s; this is not recorded: %s", record.name, message, full)
            return
        if not same:
            self._note(record, error)

    def _note(self, record: TargetRecord, error: TargetError | None) -> None:
        """Tell of a push, or of the first of several errors."""
        outcome, code = ("succeeded", None) if error is None else ("failed", error.code)
        PUSHES.labels(record.kind.value, outcome).inc()
        state = self._store.targets.state(record.id)
        if error is None:
            log.info("target %s has %s (%s s)", record.name, state.version, state.seconds)
        else:
            log.warning("target %s: %s", record.name, error.message)
        version = state.version if error is None else wanted_version(self._store, record)
        entry = AuditEntry(
            when=now(), who="worker", action="push_target", target=record.name, version=version,
            code=code,
        )  # fmt: skip
        try:
            self._store.audit.append(entry)
        except OSError as full:
            log.error("not in the audit log (%s): %s", full, entry.model_dump_json())

    def _sweep(self) -> None:
        """Remove artefacts that no server may read any more."""
        targets = self._store.targets
        if targets.damaged():
            self._store.errors.once("a record of a target is damaged: no artefacts are removed")
            return

        def held() -> set[str]:
            records = targets.with_removed()
            return {one.artefact for each in records for one in targets.state(each.id).held}

        self._shop.sweep(held)
