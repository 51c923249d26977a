"""The generation lane: prompts answered immediately, from committed versions, beside edits.

One thread decodes (``DecodeLoop``); the one that takes requests prepares them.  Versions that are
not in memory are read by helpers, so that neither thread waits for a disk.  A request finishes on
the version it began on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from concurrent.futures import Executor

from service.contracts.schemas import GenerateRequest, WorkerReply, WorkerRequest
from service.contracts.schemas.completion import CompletionAsk
from service.ops import logs
from service.queue import RequestQueue
from service.worker.decoding.completing import Completing
from service.worker.decoding.decode_loop import DecodeLoop
from service.worker.decoding.generating import Generating
from service.worker.decoding.replies import Pending, error_reply
from service.worker.gate import Gate
from service.worker.versions.views import VersionViews

LEAVERS_S = 0.25
"""Time between two searches for clients that have gone."""
PROGRESS_S = 1.0
"""Time between two signs of life for who waits; see `service.queue.asking`."""
PROGRESS = WorkerReply(event="progress")


class GenerationLane:
    """Decodes what it is given, until ``end`` is called."""

    def __init__(self, requests: RequestQueue, views: VersionViews, gate: Gate) -> None:
        self._requests, self._views = requests, views
        self._loop = DecodeLoop(requests, gate)
        self._live: dict[str, Pending] = {}
        self._asked_at = 0.0
        self._step, self._block, self._told_at = _Moving(), _Moving(), 0.0

    @property
    def load(self) -> int:
        """The number of requests for whose answers somebody may be waiting."""
        return len(self._live)

    def still_s(self) -> float:
        """For how many seconds no block of the model has ended, though there is something to
        decode: decoding hangs, however long a step may be.
        """
        return self._block.still_s((self._loop.rounds, self._loop.blocks), self._loop.works)

    def step_s(self) -> float:
        """For how many seconds the present step goes on."""
        return self._step.still_s(self._loop.rounds, self._loop.works)

    def silent_s(self) -> float:
        """For how many seconds the requests that it holds have not gone on, as decoding hangs or
        nobody looks after what was taken.

        The heartbeat says so, once for all of them: an entry for each, once a second, would cost
        more than their tokens where hundreds wait.  It is no yes or no: of blocks that take longer
        than a second, one who looks every other second could always hear the wrong one.
        """
        return max(self.still_s(), time.monotonic() - self._asked_at)

    def tell_progress(self, others: Collection[str]) -> None:
        """Let those who wait for ``others``, which are not decoded, know that these go on."""
        moment = time.monotonic()
        if others and moment - self._told_at >= PROGRESS_S:
            self._told_at = moment
            self._requests.reply_all([(i, PROGRESS) for i in others])

    def accept(self, request: WorkerRequest, loaders: Executor) -> None:
        """Have a request answered; ``loaders`` read versions that are not in memory."""
        self._guarded(request, lambda: self._prepare(request, loaders))

    def drop_leavers(self) -> None:
        """Mark requests whose client has gone, or whose deadline has passed, to be dropped."""
        moment = time.monotonic()
        if moment - self._asked_at < LEAVERS_S:
            return
        self._asked_at = moment
        self._live = {i: p for i, p in self._live.items() if not (p.ended or p.gone)}
        gone, late = self._requests.gone(list(self._live)), time.time()
        for request_id, pending in self._live.items():
            pending.gone = request_id in gone or pending.request.deadline < late

    def decode(self) -> None:
        """Thread body: answer what was accepted, until ``end`` is called."""
        self._loop.run()

    def end(self) -> None:
        """Let decoding end."""
        self._loop.stop.set()

    def _prepare(self, request: WorkerRequest, loaders: Executor) -> None:
        """Hand a request to the decoding thread, once its versions are in memory."""
        pending = _pending(request)
        self._live[request.id] = pending
        if all(self._views.ready(version) for version in request.versions):
            self._hand_over(pending)
        else:
            loaders.submit(self._guarded, request, lambda: self._hand_over(pending))

    def _hand_over(self, pending: Pending) -> None:
        pending.prepare([self._views.get(version) for version in pending.request.versions])
        self._loop.put(pending)

    def _guarded(self, request: WorkerRequest, action: Callable[[], None]) -> None:
        """Do something for a request; an error becomes its answer."""
        with logs.bound(request_id=request.request_id):
            try:
                action()
            except Exception as error:
                pending = self._live.get(request.id)
                if pending is not None:
                    pending.ended = True
                self._requests.reply(request.id, error_reply(error))


class _Moving:
    """A number that rises, looked at now and then."""

    def __init__(self) -> None:
        self._last: object = None
        self._moved_at = time.monotonic()

    def still_s(self, number: object, works: bool) -> float:
        """For how many seconds it has been the same while something worked."""
        moment = time.monotonic()
        if number != self._last or not works:
            self._last, self._moved_at = number, moment
        return moment - self._moved_at


def _pending(request: WorkerRequest) -> Pending:
    if request.kind == "complete":
        return Completing(request, CompletionAsk.model_validate(request.body))
    return Generating(request, GenerateRequest.model_validate(request.body))
