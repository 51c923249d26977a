"""The request lane: takes requests that wait for no job, and hands each to what answers it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor

from pydantic import BaseModel

from jeep_core.executors.threads import use_threads
from service.contracts.schemas import WorkerReply, WorkerRequest
from service.ops import logs, tracing
from service.queue import RequestQueue
from service.worker.decoding.replies import error_reply
from service.worker.failures import Refused
from service.worker.lanes.generation_lane import LEAVERS_S, GenerationLane
from service.worker.versions.explaining import Explanations
from service.worker.versions.requests import VersionRequests

WAIT_MS = 500
TAKE = 64
LOADERS = 2


class RequestLane:
    """Takes requests until ``stop`` is set, and ends decoding then.

    Once ``drain`` is set it ends by itself as soon as what it has taken is answered.  ``alone``:
    no other worker takes requests, so that it may take many at a time.

    Moves of head are carried out one at a time, in the order in which they were asked for, and so
    are explanations, on ``threads`` threads.
    """

    def __init__(
        self,
        requests: RequestQueue,
        generation: GenerationLane,
        versions: VersionRequests | None,
        explanations: Explanations,
        threads: int = 1,
        alone: Callable[[], bool] = lambda: True,
    ) -> None:
        self._requests, self._generation, self._versions = requests, generation, versions
        self._explanations, self._threads, self._alone = explanations, threads, alone
        self._explaining: set[str] = set()
        self.stop, self.drain = threading.Event(), threading.Event()

    @property
    def load(self) -> int:
        """The number of requests that are not answered yet."""
        return self._generation.load + len(self._explaining)

    def run(self) -> None:
        """Thread body: take requests.

        Raises:
            RedisError: the queue is unreachable for longer than its client waits.
        """
        own = use_threads, (self._threads,)
        try:
            with (
                # else they would take the last number of threads that was set anywhere
                ThreadPoolExecutor(LOADERS, "loading", *own) as loaders,
                ThreadPoolExecutor(1, "rollback", *own) as movers,
                ThreadPoolExecutor(1, "explaining", *own) as explainers,
            ):
                while not self.stop.is_set():
                    draining = self.drain.is_set()
                    taken = self._take(loaders, movers, explainers)
                    if draining and not taken and not self.load:
                        break
        finally:  # otherwise decoding, and the process with it, would wait for requests forever
            self._generation.end()

    def _take(self, loaders: Executor, movers: Executor, explainers: Executor) -> bool:
        """Take what has come; whether there was something."""
        versions = self._versions
        wait_ms = LEAVERS_S * 1000 if self.load else WAIT_MS
        taken = self._requests.take(wait_ms, TAKE if self._alone() else 1)
        for request in taken:
            match request.kind:
                case "explain":
                    self._explaining.add(request.id)
                    explainers.submit(self._answer, request, self._explanations.explain)
                case "generate" | "complete":
                    self._generation.accept(request, loaders)
                case _ if versions is None:
                    error = Refused("no_worker", "a follower changes nothing: ask the writer")
                    self._requests.reply(request.id, error_reply(error))
                case "rollback":
                    movers.submit(self._answer, request, versions.roll_back)
                case "activate":
                    movers.submit(self._answer, request, versions.activate)
                case "restore":
                    loaders.submit(self._answer, request, versions.restore)
        self._generation.drop_leavers()
        self._generation.tell_progress(tuple(self._explaining))
        return bool(taken)

    def _answer(self, request: WorkerRequest, action: Callable[[WorkerRequest], BaseModel]) -> None:
        """Answer a request about a version; an error becomes its answer."""
        with (
            tracing.span(request.kind, request.traceparent),
            logs.bound(request_id=request.request_id),
        ):
            try:
                data = action(request).model_dump(mode="json")
                reply = WorkerReply(event="result", data=data)
            except Exception as error:
                reply = error_reply(error)
            try:
                self._requests.reply(request.id, reply)
            finally:
                self._explaining.discard(request.id)
