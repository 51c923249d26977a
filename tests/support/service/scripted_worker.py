"""A worker without a model: it speaks the real queue and writes the real store.

Every edit succeeds and makes a version; prompts decide how a generation goes.
"""

import os
import threading
import time
from datetime import UTC, datetime

from service.contracts.jobs import Job, JobError, JobKind, JobStatus, Lane, Progress, now
from service.contracts.schemas import (
    Activation,
    Answer,
    EditPayload,
    EditResult,
    FactOutcome,
    GeneratedToken,
    GenerateRequest,
    GenerateResult,
    Generation,
    Manifest,
    RevertPayload,
    RevertResult,
    RollbackResult,
    WorkerReply,
    WorkerRequest,
)
from service.ops.metrics_page import page_of
from service.queue import Heartbeat, JobQueue, Keys, Lease, RequestQueue, WorkerBeat, connect
from service.settings import Settings
from service.store import HeadMoved, Move, Store, StoreError
from service.store.history import without
from service.worker.failures import Refused
from service.worker.kinds.reverts import result_of
from service.worker.metrics import REGISTRY
from support.service.bundled_model import publish

TENSOR = "transformer.h.1.mlp.fc_out.weight"


class ScriptedWorker:
    """Use as a context manager.  ``busy`` cleared: jobs wait until it is set again."""

    def __init__(self, settings: Settings) -> None:
        self.store = Store.open(settings.store)
        self.client = connect(str(settings.redis_url))
        keys = Keys(self.store.id)
        self.keys = keys
        self.jobs, self.requests = JobQueue(self.client, keys), RequestQueue(self.client, keys)
        self.lease = Lease(self.client, keys, settings)
        self.go = threading.Event()
        self.go.set()
        self.asked: list[WorkerRequest] = []
        self.abandoned: list[str] = []
        self.damaged: list[str] = []
        self._stop = threading.Event()
        started = datetime.now(UTC)
        instance = f"{os.getpid()}-{id(self)}"

        def beat() -> WorkerBeat:
            return WorkerBeat(
                instance=instance,
                pid=os.getpid(),
                model="atlas-gptj",
                started_at=started,
                damaged=self.damaged,
            )

        self.heartbeat = Heartbeat(self.client, keys, beat, lambda: page_of(REGISTRY))

    def __enter__(self) -> "ScriptedWorker":
        publish(self.store)
        self.fence = self.lease.acquire(self.store.head.read().fence)
        self.jobs.requeue_missing(self.store.journal.unfinished())
        self.heartbeat.start()
        self._threads = [
            threading.Thread(target=loop, args=(turn,))
            for loop, turn in ((self._loop, self._one_job), (self._loop, self._some_requests))
        ]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self.go.set()
        for thread in self._threads:
            thread.join(10)
        self.heartbeat.stop()
        self.lease.release()
        self.client.close()

    def refuse_reads(self) -> None:
        """Make jobs of the read lane fail from now on; otherwise they wait."""
        reads = JobQueue(self.client, self.keys, Lane.READ)
        thread = threading.Thread(target=self._loop, args=(lambda: self._one_read(reads),))
        thread.start()
        self._threads.append(thread)

    def _one_read(self, reads: JobQueue) -> None:
        queued = reads.next(50)
        if queued is not None:
            problem = JobError(code="refused", message="this worker has no model")
            update = {"status": JobStatus.FAILED, "finished_at": now(), "error": problem}
            ended = reads.begin(queued.job, self.fence).model_copy(update=update)
            self.store.journal.save(ended)
            reads.finish(ended, self.fence)

    def _loop(self, turn) -> None:
        while not self._stop.is_set():
            turn()

    # ------------------------------------------------------------ jobs

    def _one_job(self) -> None:
        queued = self.jobs.next(50)
        if queued is None:
            return None
        base = self.store.head.read().version
        job = self.jobs.begin(queued.job.model_copy(update={"base_version": base}), self.fence)
        self.jobs.progress(job.id, Progress(phase="values", done=1, total=2, eta_seconds=0.1))
        while True:
            if self.jobs.cancel_requested(job.id) or self.store.journal.cancel_requested(job.id):
                return self._end(job, JobStatus.CANCELLED)
            if self.go.wait(0.02):
                break
        if self._stop.is_set():
            return None
        try:
            made = self._revert if job.kind is JobKind.REVERT else self._commit
            result = made(job, base)
        except HeadMoved as error:
            problem = JobError(code="version_conflict", message=str(error))
            return self._end(job, JobStatus.FAILED, error=problem)
        except Refused as refused:
            return self._end(job, JobStatus.FAILED, error=refused.error)
        except StoreError as error:
            problem = JobError(code="refused", message=str(error))
            return self._end(job, JobStatus.FAILED, error=problem)
        self.jobs.progress(job.id, Progress(phase="done", done=2, total=2, eta_seconds=0.0))
        return self._end(job, JobStatus.SUCCEEDED, result=result.model_dump(mode="json"))

    def _end(self, job: Job, status: JobStatus, **more: object) -> None:
        ended = job.model_copy(update={"status": status, "finished_at": now(), **more})
        self.store.journal.save(ended)
        self.jobs.finish(ended, self.fence)

    def _commit(self, job: Job, base: str) -> EditResult:
        payload = EditPayload.model_validate(job.payload)
        result = self._write(job, payload, base)
        if payload.activate:
            self._move(job, result.version, base)
        if payload.snapshot_name:
            self.store.names.give(payload.snapshot_name, result.version)
        return result

    def _revert(self, job: Job, base: str) -> RevertResult:
        payload = RevertPayload.model_validate(job.payload)
        parts = without(self.store.versions.lineage(base), payload.edit_id)
        if parts is None:
            raise Refused("not_applied", f"{payload.edit_id} is not part of {base}")
        kept, later = parts
        tip = kept[-1].id
        for source in later:
            again = EditPayload(
                edit_id=str(source.edit_id),
                facts=source.facts,
                editor=str(source.editor),
                preset=None,
                hparams={},
            )
            tip = self._write(job, again, tip, reapplied_from=source.id).version
        move = self._move(job, tip, base)
        if payload.snapshot_name:
            self.store.names.give(payload.snapshot_name, tip)
        return result_of(self.store, job, move)

    def _write(self, job: Job, payload: EditPayload, parent: str, **more: object) -> EditResult:
        version = self.store.versions.new_id()
        data = version.encode().ljust(16, b"\0")
        ref = self.store.tensors.put(TENSOR, "F32", [2, 2], data)
        result = edit_result(payload, version, parent)
        self.store.versions.write(
            Manifest(
                id=version,
                parent=parent,
                job_id=job.id,
                edit_id=payload.edit_id,
                editor=payload.editor,
                facts=payload.facts,
                tensors=[ref],
                weights_sha256=ref.sha256,
                created_at=now(),
                result=result,
                staged=not payload.activate,
                **more,
            )
        )
        return result

    def _move(self, job: Job, to: str, expected: str) -> Move:
        head = self.store.head.move(
            to, expected=expected, job_id=job.id, fence=self.fence, who="test", why=job.kind.value
        )
        return head.move

    # ------------------------------------------------------------ requests

    def _some_requests(self) -> None:
        for request in self.requests.take(50, 8):
            self.asked.append(request)
            if request.kind == "rollback":
                self._roll_back(request)
            elif request.kind == "activate":
                self._activate(request)
            elif request.kind == "restore":
                self._restore(request)
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
        """The bytes of a version are its id (`_write`)."""
        [version] = request.versions
        self.store.tensors.put(TENSOR, "F32", [2, 2], version.encode().ljust(16, b"\0"))
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

    def _until_abandoned(self, request: WorkerRequest) -> None:
        while time.time() < request.deadline and not self._stop.is_set():
            if self.requests.gone([request.id]):
                self.abandoned.append(request.id)
                return
            time.sleep(0.05)

    def _reply(self, request: WorkerRequest, event: str, data) -> None:
        reply = WorkerReply(event=event, data=data.model_dump(mode="json"))
        self.requests.reply(request.id, reply)


def edit_result(payload: EditPayload, version: str, parent: str) -> EditResult:
    facts = [
        FactOutcome(
            index=index,
            **fact.model_dump(include={"subject", "prompt", "target_new", "target_true"}),
            before=Answer(p_new=0.01, text="old"),
            after=Answer(p_new=0.99, text=fact.target_new),
            success=True,
            steps=3,
            target_probability=0.9,
        )
        for index, fact in zip(payload.sent_as, payload.facts, strict=True)
    ]
    return EditResult(
        edit_id=payload.edit_id,
        version=version,
        parent=parent,
        snapshot_name=payload.snapshot_name,
        facts=facts,
        efficacy=1.0,
        greedy_success=1.0,
        layers=[],
        seconds={"total": 0.1},
        duplicates=payload.duplicates,
        activated=payload.activate,
    )
