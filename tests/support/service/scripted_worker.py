"""A worker without a model that runs in the background, for tests of the api.

Its edit lane is real and every edit succeeds (``played_worker``); prompts and reasons decide how
requests go.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

from pydantic import BaseModel

from service.contracts.jobs import Job, JobError, Lane, Progress
from service.contracts.schemas import (
    Activation,
    GeneratedToken,
    GenerateRequest,
    GenerateResult,
    Generation,
    RollbackResult,
    WorkerReply,
    WorkerRequest,
)
from service.contracts.schemas.completion import (
    CompletionAnswer,
    CompletionAsk,
    CompletionResult,
    ScoredToken,
    StreamedToken,
)
from service.ops.metrics_page import page_of
from service.queue import Heartbeat, JobQueue, QueuedJob, RequestQueue, WorkerBeat, connect
from service.settings import Settings
from service.store import Store
from service.worker.failures import Refused
from service.worker.lanes.edit_lane import EditLane
from service.worker.lanes.gate import Gate
from service.worker.lanes.lane import JobLane, Work
from service.worker.lanes.read_lane import ReadLane, Task
from service.worker.metrics import REGISTRY
from support.service.bundled_model import BASE_WEIGHTS, publish
from support.service.played_worker import (
    NO_MODEL,
    TENSOR,
    Worker,
    bytes_of,
)

VALUES = Progress(phase="values", done=1, total=2, eta_seconds=0.1)
LOOK_MS = 50
HANG, FAIL, BREAK = 11, 12, 13
"""First tokens of completions that are not answered, refused, or broken off."""


class Brisk(JobQueue):
    """A queue that is never waited for long: tests end sooner."""

    def next(self, wait_ms: float) -> QueuedJob | None:
        return super().next(min(wait_ms, LOOK_MS))


class HeldLane(EditLane):
    """Jobs begin, then wait until ``go`` is set."""

    go: threading.Event

    def _prepare(self, job: Job) -> tuple[Job, Work]:
        begun, work = super()._prepare(job)

        def held() -> BaseModel:
            self._publish(begun.id, VALUES)
            while not self.go.wait(0.02):
                self._checkpoint(begun.id)
            return work()

        return begun, held


class ScriptedRequests:
    """Answers the requests of the api in turn; remembers what was ``asked``."""

    def __init__(self, store: Store, requests: RequestQueue, fence: int) -> None:
        self.store, self.requests, self.fence = store, requests, fence
        self.asked: list[WorkerRequest] = []
        self.abandoned: list[str] = []
        self.stop = threading.Event()

    def run(self) -> None:
        while not self.stop.is_set():
            self.answer_some()

    def answer_some(self) -> None:
        for request in self.requests.take(50, 8):
            self.asked.append(request)
            if request.kind == "rollback":
                self._roll_back(request)
            elif request.kind == "activate":
                self._activate(request)
            elif request.kind == "restore":
                self._restore(request)
            elif request.kind == "complete":
                self._complete(request)
            else:
                self._generate(request)

    def _roll_back(self, request: WorkerRequest) -> None:
        [to] = request.versions
        previous = self.store.head.read().version
        why = request.body["why"]
        if why == "fail":
            self._reply(request, "error", JobError(code="corrupt_version", message="damaged"))
            return
        self.store.head.move(
            to, expected=previous, job_id=None, fence=self.fence, who="test", why=why
        )
        weights = self.store.versions.read(to).weights_sha256
        answer = RollbackResult(version=to, previous=previous, weights_sha256=weights)
        self._reply(request, "result", answer)

    def _activate(self, request: WorkerRequest) -> None:
        version = self.store.versions.read(request.versions[0])
        if request.body["why"] == "overtaken":
            error = JobError(code="version_conflict", message="head is v9, not v1")
            self._reply(request, "error", error)
            return
        if self.store.head.read().version != version.id:
            why = request.body["why"]
            expected = str(version.parent)
            self.store.head.move(
                version.id, expected=expected, job_id=None, fence=self.fence, who="test", why=why
            )
        answer = Activation(
            version=version.id, previous=str(version.parent), weights_sha256=version.weights_sha256
        )
        self._reply(request, "result", answer)

    def _restore(self, request: WorkerRequest) -> None:
        [version] = request.versions
        self.store.tensors.put(TENSOR, "F32", [2, 2], bytes_of(version))
        reply = WorkerReply(event="result", data={"version": version})
        self.requests.reply(request.id, reply)

    def _generate(self, request: WorkerRequest) -> None:
        body = GenerateRequest.model_validate(request.body)
        first = body.all_prompts[0]
        if first == "hang":
            self._until_abandoned(request)
            return
        if first == "fail":
            self._reply(request, "error", JobError(code="out_of_memory", message="too much"))
            return
        tokens = [GeneratedToken(id=i, text=t, probability=0.5) for i, t in enumerate(" a b")]
        if body.stream:
            for token in tokens:
                self._reply(request, "token", token)
        if first == "break":
            self._reply(request, "error", JobError(code="boom", message="broke off"))
            return
        results = [
            Generation(
                version=v, prompt=p, text=f"{v} says {p}", tokens=tokens, finish_reason="length"
            )
            for p in body.all_prompts
            for v in request.versions
        ]
        self._reply(request, "result", GenerateResult(results=results))

    def _complete(self, request: WorkerRequest) -> None:
        """Two tokens to every prompt; the first token of the first prompt decides otherwise."""
        body = CompletionAsk.model_validate(request.body)
        first = body.prompts[0][0]
        if first == HANG:
            self._until_abandoned(request)
            return
        if first == FAIL:
            self._reply(request, "error", JobError(code="out_of_memory", message="too much"))
            return
        tokens = [ScoredToken(id=id, log_probability=-0.5, top=[(id, -0.5)]) for id in (300, 301)]
        count = len(body.prompts) * body.samples
        if body.stream:
            for i in range(count):
                if body.prompt_top is not None:
                    self._reply(request, "token", StreamedToken(index=i, prompt=tokens))
                for token in tokens[: body.max_new_tokens]:
                    self._reply(request, "token", StreamedToken(index=i, delta="x", token=token))
        if first == BREAK:
            self._reply(request, "error", JobError(code="boom", message="broke off"))
            return
        answers = [
            CompletionAnswer(
                index=i,
                text="xx"[: body.max_new_tokens],
                tokens=tokens[: body.max_new_tokens],
                finish_reason="length",
                prompt=None if body.prompt_top is None else tokens,
            )
            for i in range(count)
        ]
        result = CompletionResult(version=request.versions[0], answers=answers)
        self._reply(request, "result", result)

    def _until_abandoned(self, request: WorkerRequest) -> None:
        while time.time() < request.deadline and not self.stop.is_set():
            if self.requests.gone([request.id]):
                self.abandoned.append(request.id)
                return
            time.sleep(0.05)

    def _reply(self, request: WorkerRequest, event: str, data: BaseModel) -> None:
        reply = WorkerReply(event=event, data=data.model_dump(mode="json"))
        self.requests.reply(request.id, reply)


class ScriptedWorker(Worker):
    """Use as a context manager.  ``go`` cleared: jobs wait until it is set again."""

    weights = BASE_WEIGHTS
    lane_type = HeldLane
    queue_type = Brisk

    def __init__(self, settings: Settings) -> None:
        self.go = threading.Event()
        self.go.set()
        self.damaged: list[str] = []
        super().__init__(connect(str(settings.redis_url)), settings.store, settings=settings)
        requests = RequestQueue(self.client, self.keys)
        self.requests = ScriptedRequests(self.store, requests, self.lease.fence)
        self.asked, self.abandoned = self.requests.asked, self.requests.abandoned
        self._lanes: list[JobLane] = [self.lane]
        started, instance = datetime.now(UTC), f"{os.getpid()}-{id(self)}"

        def beat() -> WorkerBeat:
            return WorkerBeat(
                instance=instance,
                pid=os.getpid(),
                model="atlas-gptj",
                started_at=started,
                damaged=self.damaged,
            )

        self.heartbeat = Heartbeat(self.client, self.keys, beat, lambda: page_of(REGISTRY))

    def prepare(self) -> None:
        publish(self.store)

    def make_lane(self, during: Any) -> JobLane:
        lane = super().make_lane(during)
        assert isinstance(lane, HeldLane)
        lane.go = self.go
        return lane

    def __enter__(self) -> ScriptedWorker:
        self.heartbeat.start()
        self._threads: list[threading.Thread] = []
        self._begin(self.lane.run)
        self._begin(self.requests.run)
        return self

    def __exit__(self, *_: object) -> None:
        for running in (*self._lanes, self.requests):
            running.stop.set()
        self.go.set()
        for thread in self._threads:
            thread.join(10)
        self.heartbeat.stop()
        self.lease.release()
        self.client.close()

    def refuse_reads(self) -> None:
        """Make jobs of the read lane fail from now on; otherwise they wait."""
        views: Any = SimpleNamespace(base=NO_MODEL)
        queue = Brisk(self.client, self.keys, Lane.READ)
        parts = (queue, self.store, self.lease, views, self.settings, Gate(1.0))
        reads = ReadLane(*parts, find=lambda kind: refuse)
        self._lanes.append(reads)
        self._begin(reads.run)

    def _begin(self, body: Callable[[], None]) -> None:
        thread = threading.Thread(target=body)
        thread.start()
        self._threads.append(thread)


def refuse(task: Task) -> BaseModel:
    raise Refused("refused", "this worker has no model")
