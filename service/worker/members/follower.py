"""A follower: a worker that answers and measures, and never writes a version or moves head."""

from __future__ import annotations

import logging
import os
import threading
from contextlib import ExitStack

import torch

from jeep_core.errors import is_passing
from jeep_core.executors.work import Executor
from jeep_core.models.loading import LoadedModel
from jeep_core.storage.looking import is_folder
from service.contracts.jobs import Lane
from service.contracts.schemas.worker import WorkerState
from service.queue import (
    JobQueue,
    Keys,
    Members,
    QueueFailure,
    RequestQueue,
    connect,
    end_patience,
)
from service.settings import EXIT_AGAIN, EXIT_CONFIG, Settings
from service.store import NotAStore, NotFetched, Store, StoreError, is_denied
from service.store.store import check_identity
from service.worker.executing import check_executor, executor_of
from service.worker.failures import exit_code
from service.worker.fetching.elsewhere import Elsewhere
from service.worker.gate import Gate
from service.worker.input_files import check_inputs
from service.worker.lanes.read_lane import ReadLane
from service.worker.members.common import (
    KEPT_MANIFESTS,
    RETRY_S,
    Answering,
    Lanes,
    answering,
    cannot_start,
    heartbeat,
    load_base,
)
from service.worker.members.head import FollowedHead
from service.worker.members.joining import check_base, check_release, differences
from service.worker.moments import SharedMoments
from service.worker.versions.views import VersionViews

log = logging.getLogger(__name__)
LOOK_S = 0.5
JOB_STALLS = 20
"""How many times as long as decoding a job may go no further: a step of it reads whole versions."""


class NoLease:
    """The right of a follower: to jobs that it has claimed, and to nothing else."""

    def __init__(self) -> None:
        self.lost, self.fence = threading.Event(), None


class Follower:
    """The state of the process.  ``run`` blocks until ``stop``, and drains then.

    ``stop`` set: nothing new is taken, what was taken is answered, for ``JEEP_DRAIN_S`` at most.
    ``at_once``, ``loading``: as in `service.worker.process.Worker`.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.stop, self.at_once = threading.Event(), threading.Event()
        self.loading = False
        self._code = 0
        self._hangs = False
        self._jobs = False
        self._elsewhere: Elsewhere | None = None
        self._answering: Answering

    def run(self) -> int:
        """Work until stopped; the exit code."""
        if self.settings.redis_url is None:
            log.error("JEEP_REDIS_URL is not set: a follower needs the queue of its writer")
            return EXIT_CONFIG
        with ExitStack() as stack:
            try:
                if self.settings.store_url is not None:
                    self._elsewhere = Elsewhere(self.settings, stack, self._end, self.stop)
                store = self._joined()
                if store is None:
                    return 0
                check_inputs(self.settings)
                check_executor(self.settings)
                self.loading = True
                base = load_base(self.settings)
                self.loading = False
                check_base(store, base)
                executor = executor_of(self.settings, base, stack)
            except Exception as error:
                if self.stop.is_set() and isinstance(error, NotFetched):
                    return 0
                if (code := exit_code(error)) is None:
                    raise
                when = "" if code == EXIT_CONFIG else " now"
                why = cannot_start(error, self.settings)
                log.error("this follower cannot join%s: %s", when, why)
                return code
            try:
                return self._serve(store, base, executor, stack)
            except QueueFailure as error:
                log.error("the queue cannot be used: %s", error)
                return 1
            except OSError as error:
                if not (is_passing(error) or is_denied(error)):
                    raise
                log.error("%s", cannot_start(error, self.settings))
                return exit_code(error) or 1

    def _joined(self) -> Store | None:
        """The store, once a writer has published its model there; None if stopped before.

        Raises:
            StoreError: it is no store, or its worker is of another release.
        """
        waited, where = False, self.settings.store_url or self.settings.store
        while not self.stop.is_set():
            store = self._opened()
            if store is not None:
                info = store.base.info()
                if info is not None:
                    check_release(info)
                    store.versions.keeps = KEPT_MANIFESTS
                    return store
            if not waited and (store is not None or self._elsewhere is None):
                log.warning("%s has no model yet; waiting for its writer", where)
            waited = True
            self.stop.wait(RETRY_S)
        return None

    def _opened(self) -> Store | None:
        """The store, None where it is not there yet."""
        if self._elsewhere is not None:
            return self._elsewhere.opened()
        try:
            return Store.open(self.settings.store, following=True)
        except NotAStore:
            if not is_folder(self.settings.store):
                raise
            return None

    def _takes_jobs(self, store: Store) -> bool:
        if self._elsewhere is not None:  # what they read and write lies on the store's disk
            return False
        info = store.base.info()
        found = differences(info, self.settings) if info is not None else []
        if found:
            log.warning(
                "this follower takes no jobs, as its figures would not be the writer's: %s differ",
                ", ".join(found),
            )
        return not found

    def _serve(self, store: Store, base: LoadedModel, executor: Executor, stack: ExitStack) -> int:
        settings = self.settings
        client = connect(str(settings.redis_url))
        stack.callback(client.close)
        keys, members = Keys(store.id), Members(client, Keys(store.id))
        views = VersionViews(base, store, settings.versions_in_memory)
        head = FollowedHead(store, views, lambda: self._check_again(store, base))
        if self._elsewhere is not None:
            self._elsewhere.in_use(views.in_use)
        head.look()
        self._check_again(store, base)  # the writer may have changed while the model was loaded
        if self.stop.is_set():
            return self._code
        gate = Gate(settings.edit_share, read_share=settings.read_share)

        def takes() -> bool:
            return self._takes(members, head, asked.instance)

        asked = RequestQueue(client, keys, writer=False, takes=takes)
        waiting = JobQueue(
            client,
            keys,
            Lane.READ,
            consumer=asked.instance,
            members=members.consumers,
            shares=lambda: self._jobs and self._state == "ready",
        )
        reads = ReadLane(
            waiting,
            store,
            NoLease(),
            views,
            settings,
            gate,
            moments=SharedMoments(base, store, settings),
            executor=executor,
        )
        alone = lambda: len(members.followers()) < 2  # noqa: E731
        answers = answering(settings, store, views, gate, asked, None, alone)
        self._answering, requests = answers, answers.requests
        if self._elsewhere is not None:
            self._elsewhere.owed = lambda: requests.load > 0 and not requests.stop.is_set()
        beat = heartbeat(
            client,
            keys,
            base,
            views,
            answers,
            lambda: {
                "role": "follower",
                "head": head.version,
                "job": reads.doing,
                "takes": takes(),
                "jobs": self._jobs and self._state == "ready",
                "state": self._state,
                "fetching": self._elsewhere and self._elsewhere.described(),
            },
            asked.instance,
        )
        members.forget_dead()
        beat.start()
        stack.callback(asked.leave)
        stack.callback(waiting.leave)
        stack.callback(beat.stop)
        lanes = Lanes(self.stop, store.root)
        lanes.start(
            [
                ("reads", reads.run, torch.get_num_threads()),
                *answers.bodies,
                ("head", head.run, 1),
                *([] if self._elsewhere is None else [("mirror", self._elsewhere.follow, 1)]),
            ]
        )
        log.info("ready, follows head, which is %s", head.version)
        while not self.stop.wait(LOOK_S):
            self._end_if_stuck(reads)
        if isinstance(lanes.failure, QueueFailure):
            end_patience(client)
        else:
            beat.beat()
        reads.stop.set()
        head.stop.set()
        answers.drain(lanes, settings.drain_s, self.at_once)
        if self._hangs:
            os._exit(self._code)
        answers.join(lanes)
        return self._code or lanes.exit_code

    @property
    def _state(self) -> WorkerState:
        return self._answering.state(self.stop.is_set())

    def _end_if_stuck(self, reads: ReadLane) -> None:
        """End the process whose decoding or whose job hangs: no thread of it can be asked to end.

        While a job hangs, requests go on: they are answered first.
        """
        stall_s = self.settings.stall_s
        if self._answering.generation.still_s() > 2 * stall_s:
            log.critical("decoding has gone no further for JEEP_STALL_S twice; this worker ends")
            os._exit(EXIT_AGAIN)
        job = reads.doing
        if reads.still_s() > JOB_STALLS * stall_s and job is not None:
            self._hangs = True
            why = f"{job} has gone no further for {JOB_STALLS} times JEEP_STALL_S"
            self._end(f"{why}; another worker takes it over", EXIT_AGAIN)

    def _check_again(self, store: Store, base: LoadedModel) -> None:
        """The writer has started again: it must be of this release, with this store and model.

        Its settings may be others than before, so they are compared again.
        """
        try:
            check_identity(store)
            info = store.base.info()
            if info is not None:
                check_release(info)
            check_base(store, base)
            self._jobs = self._takes_jobs(store)
        except (StoreError, OSError) as error:
            if self.stop.is_set() and isinstance(error, NotFetched):
                return  # it is stopped: nothing is waited for
            self._end(str(error), exit_code(error) or EXIT_CONFIG)

    def _end(self, why: str, code: int = EXIT_CONFIG) -> None:
        log.error("this follower ends: %s", why)
        self._code = code
        self.stop.set()

    def _takes(self, members: Members, head: FollowedHead, instance: str) -> bool:
        """Whether it takes requests that all may answer: where it cannot now, another does."""
        if self._state != "ready" or self._left_behind(members, head):
            return False
        pauses = self._answering.pauses
        if head.served and not pauses:
            return True
        return not members.is_another_for(instance, pauses)

    def _left_behind(self, members: Members, head: FollowedHead) -> bool:
        """Whether head is elsewhere now and cannot be fetched: others are to be asked then."""
        if self._elsewhere is None or self._elsewhere.link.away_s is None:
            return False
        writer = members.writer()
        return writer is not None and writer.head not in (None, head.version)
