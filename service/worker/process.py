"""The worker process from start to stop."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from types import FrameType

import torch
import transformers.modeling_utils  # noqa: F401  (else imported with the model, more slowly)
from transformers.utils import logging as transformers_logging

from jeep_core.errors import is_passing
from jeep_core.executors.work import Executor
from jeep_core.models.loading import LoadedModel
from service.contracts.jobs import Lane
from service.ops import logs, tracing
from service.queue import (
    JobQueue,
    Keys,
    Lease,
    LeaseHeld,
    Members,
    QueueFailure,
    RequestQueue,
    connect,
    end_patience,
)
from service.settings import EXIT_AGAIN, EXIT_CONFIG, Settings
from service.store import CorruptFile, StaleFence, Store, StoreBusy, is_denied
from service.store.maintenance.room import Room
from service.store.store import is_another
from service.worker.executing import check_executor, executor_of
from service.worker.failures import exit_code
from service.worker.gate import Gate
from service.worker.input_files import check_inputs
from service.worker.kinds.edits import EditRunner
from service.worker.lanes.edit_lane import EditLane
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
    writer_answers,
    writer_measures,
)
from service.worker.members.follower import Follower
from service.worker.members.publishing import head_of, load_head, load_mended_head, prepare
from service.worker.moments import SharedMoments
from service.worker.targets.pusher import Pusher
from service.worker.targets.workshop import Workshop
from service.worker.versions.requests import VersionRequests
from service.worker.versions.retention import Keeper
from service.worker.versions.views import VersionViews

log = logging.getLogger(__name__)
LOOK_S = 1.0
"""How often it is looked whether another store lies in the folder."""
SWITCH_S = 0.0005
"""How long one thread may keep the interpreter from the others; Python's 5 ms are a whole step."""


class Worker:
    """The state of the writer's process.  ``run`` blocks until ``stop`` or a fatal loss.

    ``stop`` set: jobs end and stay queued, nothing new is taken, and what was taken is answered,
    for ``JEEP_DRAIN_S`` at most.  Moves of head are still carried out meanwhile.  ``at_once`` set:
    what is not answered by then is not waited for.
    ``loading``: the model is being loaded or fetched, so there is nothing to end in order.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.stop, self.at_once = threading.Event(), threading.Event()
        self.loading = False

    def run(self) -> int:
        """Work until stopped; the exit code."""
        if self.settings.store_url is not None:
            log.error("JEEP_STORE_URL: only a follower fetches versions; set JEEP_ROLE=follower")
            return EXIT_CONFIG
        with ExitStack() as stack:
            try:
                store = Store.open(
                    self.settings.store, idempotency_hours=self.settings.idempotency_hours
                )
                store.versions.keeps = KEPT_MANIFESTS
                if not self._lock(store, stack):
                    return 0
                check_inputs(self.settings)
                check_executor(self.settings)
                self.loading = True
                base = load_base(self.settings)
                self.loading = False
                prepare(store, base, self.settings)
                # one for each lane: an edit does not wait for workers of a job that reads
                executors = [executor_of(self.settings, base, stack) for _ in range(2)]
            except Exception as error:
                if (code := exit_code(error)) is None:
                    raise
                log.error("%s", cannot_start(error, self.settings))
                return code
            try:
                return self._serve(store, base, executors, stack)
            except (QueueFailure, StaleFence) as error:
                log.error("the queue cannot be used: %s", error)
                return 1
            except CorruptFile as error:
                log.error("%s", error)
                return EXIT_CONFIG
            except OSError as error:
                if not (is_passing(error) or is_denied(error)):
                    raise
                log.error("%s", cannot_start(error, self.settings))
                return exit_code(error) or 1

    def _lock(self, store: Store, stack: ExitStack) -> bool:
        """Wait until this is the store's only worker; False if stopped before."""
        waited = False
        while not self.stop.is_set():
            try:
                stack.enter_context(store.worker_lock())
                return True
            except StoreBusy as error:
                if not waited:
                    log.warning("%s; waiting for it to end", error)
                waited = True
                self.stop.wait(RETRY_S)
        return False

    def _serve(
        self, store: Store, base: LoadedModel, executors: Sequence[Executor], stack: ExitStack
    ) -> int:
        if self.settings.redis_url is None:
            log.error("JEEP_REDIS_URL is not set: the worker needs a queue")
            return EXIT_CONFIG
        client = connect(self.settings.redis_url)
        stack.callback(client.close)
        keys = Keys(store.id)
        lease = Lease(client, keys, self.settings)
        try:
            lease.acquire(store.head.read().fence, stop=self.stop)
        except LeaseHeld:
            return 0
        stack.callback(lease.release)
        store.head.claim(lease.fence)
        views = VersionViews(base, store, self.settings.versions_in_memory)
        load_head(store, views)
        queue = JobQueue(client, keys)
        queue.requeue_missing(store.journal.unfinished())
        gate = Gate(self.settings.edit_share, read_share=self.settings.read_share)
        moments = SharedMoments(base, store, self.settings)
        for_edits, for_reads = executors
        members = Members(client, keys)
        runner = EditRunner(base, store, views, self.settings, gate, moments, for_edits)
        keeper = self._keeper(store, base, views, lease, gate, members)
        writing = partial(keeper.writing, gate)
        edits = EditLane(queue, store, lease, views, runner, self.settings, writing, keeper.due)

        def takes() -> bool:
            return self._takes(members, answers)

        def shares() -> bool:
            return not self.stop.is_set() and writer_measures(self.settings, members)

        waiting = JobQueue(client, keys, Lane.READ, members=members.consumers, shares=shares)
        reads = ReadLane(
            waiting, store, lease, views, self.settings, gate, moments=moments, executor=for_reads
        )
        asked = RequestQueue(client, keys, takes=takes)
        versions = VersionRequests(store, lease, views)
        alone = lambda: not members.followers()  # noqa: E731
        answers = answering(self.settings, store, views, gate, asked, versions, alone)
        pusher = self._pusher(store, base, views, lease, gate)
        beat = heartbeat(
            client,
            keys,
            base,
            views,
            answers,
            lambda: {
                "head": head_of(store),
                "job": reads.doing,
                "takes": takes(),
                "jobs": shares(),
                "state": answers.state(self.stop.is_set()),
            },
            asked.instance,
        )
        members.forget_dead()
        beat.start()
        stack.callback(asked.leave)
        stack.callback(beat.stop)
        every = torch.get_num_threads()
        lanes = Lanes(self.stop, store.root)
        lanes.start(
            [
                ("edits", edits.run, every),
                ("reads", reads.run, every),
                *answers.bodies,
                ("retention", keeper.run, answers.threads),
                ("targets", pusher.run, 1),
            ]
        )
        log.info("ready, head is %s", store.head.read().version)
        replaced = self._wait(store)
        if isinstance(lanes.failure, QueueFailure):
            end_patience(client)
        else:
            beat.beat()
        for one in (edits, reads, keeper, pusher):
            one.stop.set()
        drain_s = 0 if replaced else self.settings.drain_s
        answers.drain(lanes, drain_s, self.at_once, jobs=("edits", "reads"))
        answers.join(lanes)
        if replaced:
            return EXIT_AGAIN
        return lanes.exit_code

    def _takes(self, members: Members, answers: Answering) -> bool:
        """Whether it takes requests that all may answer.

        One that is alone goes on taking while a step is long: explanations are made meanwhile.
        """
        if self.stop.is_set() or not writer_answers(self.settings, members):
            return False
        return not (answers.pauses and members.is_follower_taking())

    def _wait(self, store: Store) -> bool:
        """Wait until asked to stop, or until another store lies in the folder: whether it does."""
        while not self.stop.wait(LOOK_S):
            if (why := is_another(store)) is not None:
                log.error("%s", why)
                self.stop.set()
                return True
        return False

    def _keeper(
        self,
        store: Store,
        base: LoadedModel,
        views: VersionViews,
        lease: Lease,
        gate: Gate,
        members: Members,
    ) -> Keeper:
        def busy() -> set[str]:
            return views.in_use().union(*(one.versions for one in members.followers()))

        return Keeper(
            base,
            store,
            self.settings.keep_versions,
            busy=busy,
            lost=lambda: lease.lost.is_set() or store.head.is_replaced(),
            give_way=gate.another_turn(self.settings.read_share).take,
            look=lambda: load_mended_head(store, views),
            exports=self.settings.keep_exports,
        )

    def _pusher(
        self, store: Store, base: LoadedModel, views: VersionViews, lease: Lease, gate: Gate
    ) -> Pusher:
        settings = self.settings
        room = Room(store.root, settings.max_store_mb, settings.min_free_mb)
        lost = lambda: lease.lost.is_set() or store.head.is_replaced()  # noqa: E731
        turn = lambda: gate.another_turn(settings.read_share).take  # noqa: E731
        shop = Workshop(base, store, views, room, turn, settings.llama_cpp)
        return Pusher(store, settings, shop, lost)


def _quiet_transformers() -> None:
    """Route its log lines through this program's log, without progress bars."""
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    transformers_logging.disable_default_handler()
    transformers_logging.enable_propagation()


def main(settings: Settings) -> int:
    """Run a worker until SIGTERM or SIGINT; a second one ends its draining."""
    logs.configure(settings, "worker")
    _quiet_transformers()
    tracing.configure("worker")
    sys.setswitchinterval(SWITCH_S)
    worker = Follower(settings) if settings.role == "follower" else Worker(settings)

    stop = stopping(worker)
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    return worker.run()


def stopping(worker: Worker | Follower) -> Callable[[int, FrameType | None], None]:
    """Handle signals: the first one stops a worker, each later one ends its draining."""
    signalled = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal signalled
        if signalled:
            worker.at_once.set()
        signalled = True
        worker.stop.set()
        if worker.loading:  # nothing else ends a download that hangs, and its threads
            os._exit(0)

    return stop
