"""The generation lane: requests answered immediately, from committed versions, beside edits.

One thread takes requests; another decodes them (``DecodeLoop``).  Versions that are not in
memory are read, and moves of head carried out, by helpers, so that neither thread waits for a disk.
A request finishes on the version it began on.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from service.contracts.schemas import (
    Activation,
    GenerateRequest,
    RollbackResult,
    WorkerReply,
    WorkerRequest,
)
from service.ops import logs, tracing
from service.queue import Lease, RequestQueue
from service.store import HeadMoved, Store
from service.worker.decoding.decode_loop import DecodeLoop
from service.worker.decoding.replies import Pending, error_reply
from service.worker.lanes.gate import Gate
from service.worker.metrics import FACTS_APPLIED, ROLLBACKS
from service.worker.versions import rebuild
from service.worker.versions.views import VersionViews

log = logging.getLogger(__name__)
WAIT_MS = 500
TAKE = 64
LEAVERS_S = 0.25
"""How often it is asked whose client has gone."""
LOADERS = 2


class GenerationLane:
    """Answers requests until ``stop`` is set."""

    def __init__(
        self,
        requests: RequestQueue,
        store: Store,
        lease: Lease,
        views: VersionViews,
        gate: Gate,
    ) -> None:
        self._requests, self._store, self._lease, self._views = requests, store, lease, views
        self._loop = DecodeLoop(requests, gate)
        self._live: dict[str, Pending] = {}
        self._asked_at = 0.0
        self.stop = threading.Event()

    def take(self) -> None:
        """Thread body: take requests and have them prepared."""
        try:
            with (
                ThreadPoolExecutor(LOADERS, "loading") as loaders,
                ThreadPoolExecutor(1, "rollback") as rollbacks,
            ):
                while not self.stop.is_set():
                    self._take(loaders, rollbacks)
        finally:  # otherwise decoding, and the process with it, would wait for requests forever
            self._loop.stop.set()

    def _take(self, loaders: ThreadPoolExecutor, rollbacks: ThreadPoolExecutor) -> None:
        wait = LEAVERS_S * 1000 if self._live else WAIT_MS
        for request in self._requests.take(wait, TAKE):
            if request.kind == "rollback":
                rollbacks.submit(self._move, request, self._roll_back)
            elif request.kind == "activate":
                rollbacks.submit(self._move, request, self._activate)
            elif request.kind == "restore":
                loaders.submit(self._move, request, self._restore)
            else:
                self._guarded(request, lambda r: self._prepare(r, loaders))
        self._look_for_leavers()

    def decode(self) -> None:
        """Thread body: answer what was prepared, until taking has ended."""
        self._loop.run()

    # ------------------------------------------------------------ generation

    def _prepare(self, request: WorkerRequest, loaders: ThreadPoolExecutor) -> None:
        """Hand a request to the decoding thread, once its versions are in memory."""
        pending = Pending(request, GenerateRequest.model_validate(request.body))
        self._live[request.id] = pending
        if all(self._views.ready(version) for version in request.versions):
            self._hand_over(pending)
        else:
            loaders.submit(self._guarded, request, lambda _: self._hand_over(pending))

    def _hand_over(self, pending: Pending) -> None:
        pending.prepare([self._views.get(version) for version in pending.request.versions])
        self._loop.put(pending)

    def _look_for_leavers(self) -> None:
        """Mark requests whose client has gone, or whose deadline has passed, to be dropped."""
        moment = time.monotonic()
        if moment - self._asked_at < LEAVERS_S:
            return
        self._asked_at = moment
        self._live = {i: p for i, p in self._live.items() if not (p.ended or p.gone)}
        gone, late = self._requests.gone(list(self._live)), time.time()
        for request_id, pending in self._live.items():
            pending.gone = request_id in gone or pending.request.deadline < late

    # ------------------------------------------------------------ moves of head

    def _roll_back(self, request: WorkerRequest) -> None:
        """Make the target ready to serve, then move head to it."""
        [target] = request.versions
        self._make_ready(target)
        while True:
            previous = self._store.head.read().version
            try:
                self._store.head.move(
                    target,
                    expected=previous,
                    job_id=None,
                    fence=self._lease.fence,
                    who=str(request.body.get("who", "api")),
                    why=str(request.body.get("why") or "rollback"),
                )
                break
            except HeadMoved:
                continue  # an edit was committed in between: roll back from there
        ROLLBACKS.inc()
        log.info("head goes from %s back to %s", previous, target)
        manifest = self._store.versions.read(target)
        result = RollbackResult(
            version=target, previous=previous, weights_sha256=manifest.weights_sha256
        )
        reply = WorkerReply(event="result", data=result.model_dump(mode="json"))
        self._requests.reply(request.id, reply)

    def _activate(self, request: WorkerRequest) -> None:
        """Make a staged version ready to serve, then move head to it from its parent.

        If it is head already, nothing happens: the request may be a repetition.
        """
        [target] = request.versions
        self._make_ready(target)
        manifest = self._store.versions.read(target)
        if self._store.head.read().version != target:
            self._store.head.move(
                target,
                expected=str(manifest.parent),
                job_id=None,
                fence=self._lease.fence,
                who=str(request.body.get("who", "api")),
                why=str(request.body.get("why") or f"activate {manifest.edit_id}"),
            )
            FACTS_APPLIED.inc(len(manifest.facts))
            log.info("head goes from %s to %s, which was staged", manifest.parent, target)
        result = Activation(
            version=target,
            previous=str(manifest.parent),
            weights_sha256=manifest.weights_sha256,
        )
        reply = WorkerReply(event="result", data=result.model_dump(mode="json"))
        self._requests.reply(request.id, reply)

    def _make_ready(self, target: str) -> None:
        """Load a version into memory and make sure that its tensors stay in the store for now."""
        try:
            self._give_back(target)
        except OSError as error:  # it is in memory, and can be rebuilt when it is read
            log.error("the tensors of %s are not in the store: %s", target, error)
            self._views.get(target)

    def _restore(self, request: WorkerRequest) -> None:
        """Store the tensors of a version whose tensors were dropped."""
        [target] = request.versions
        self._give_back(target)
        reply = WorkerReply(event="result", data={"version": target})
        self._requests.reply(request.id, reply)

    def _give_back(self, target: str) -> None:
        whole = self._store.versions.want(target)
        view = self._views.get(target)
        if not whole:
            rebuild.restore(self._store, self._store.versions.read(target), view.replaced)

    def _move(self, request: WorkerRequest, action: Callable[[WorkerRequest], None]) -> None:
        with tracing.span(request.kind, request.traceparent):
            self._guarded(request, action)

    def _guarded(self, request: WorkerRequest, action: Callable[[WorkerRequest], None]) -> None:
        """Do something for a request; an error becomes its answer."""
        with logs.bound(request_id=request.request_id):
            try:
                action(request)
            except Exception as error:
                pending = self._live.get(request.id)
                if pending is not None:
                    pending.ended = True
                self._requests.reply(request.id, error_reply(error))
