"""The generation lane: requests answered at once, from committed versions, beside any edit.

One thread takes requests and moves head for rollbacks; another decodes, requests for the same
version together.  A request finishes on the version it began on.
"""

from __future__ import annotations

import logging
import queue as queues
import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import exp

import torch

from jeep_core.generation import Decoder, Generated, Sampling, Token, score
from jeep_core.views import ModelView
from service.jobs import JobError
from service.queue import Lease, RequestQueue
from service.schemas import (
    CandidateScore,
    GeneratedToken,
    GenerateRequest,
    GenerateResult,
    Generation,
    RollbackResult,
    TokenProbability,
    WorkerReply,
    WorkerRequest,
)
from service.store import CorruptTensor, HeadMoved, StaleFence, Store, UnknownVersion
from service.worker.versions import VersionViews

log = logging.getLogger(__name__)
WAIT_MS = 500
TAKE = 32
ROWS_TOGETHER = 64


@dataclass
class Pending:
    """A generate request on its way: one slot per prompt and version, prompts outermost."""

    request: WorkerRequest
    body: GenerateRequest
    slots: list[Generation | None] = field(default_factory=list)

    @property
    def sampling(self) -> Sampling:
        """The request's options as the decoder takes them."""
        body = self.body
        return Sampling(
            body.max_new_tokens,
            body.temperature,
            body.top_k,
            body.top_p,
            body.seed,
            tuple(body.stop),
            body.top_probabilities,
        )


@dataclass(frozen=True)
class Row:
    """One prompt to be answered by one version: slot ``slot`` of ``pending``."""

    pending: Pending
    slot: int
    prompt: str


class GenerationLane:
    """Answers requests until ``stop`` is set."""

    def __init__(
        self, requests: RequestQueue, store: Store, lease: Lease, views: VersionViews
    ) -> None:
        self._requests, self._store, self._lease, self._views = requests, store, lease, views
        self._waiting: queues.SimpleQueue[Pending] = queues.SimpleQueue()
        self.stop = threading.Event()

    def take(self) -> None:
        """Thread body: take requests; rollbacks are carried out here, at once."""
        while not self.stop.is_set():
            for request in self._requests.take(WAIT_MS, TAKE):
                if request.kind == "rollback":
                    self._guarded(request, lambda r=request: self._roll_back(r))
                else:
                    body = GenerateRequest.model_validate(request.body)
                    self._waiting.put(Pending(request, body))

    def decode(self) -> None:
        """Thread body: answer what has been taken, all that waits in one round."""
        while not self.stop.is_set():
            try:
                batch = [self._waiting.get(timeout=WAIT_MS / 1000)]
            except queues.Empty:
                continue
            while not self._waiting.empty():
                batch.append(self._waiting.get())
            for group in _rounds(batch):
                self._answer(group)

    # ------------------------------------------------------------ generation

    def _answer(self, group: Sequence[Pending]) -> None:
        """Answer requests together; one that cannot be answered does not harm the others."""
        by_version: dict[str, list[Row]] = defaultdict(list)
        for pending in group:
            versions, prompts = pending.request.versions, pending.body.all_prompts
            pending.slots = [None] * (len(prompts) * len(versions))
            for slot in range(len(pending.slots)):
                prompt = prompts[slot // len(versions)]
                by_version[versions[slot % len(versions)]].append(Row(pending, slot, prompt))
        failed: set[int] = set()
        for version, rows in by_version.items():
            for start in range(0, len(rows), ROWS_TOGETHER):
                some = rows[start : start + ROWS_TOGETHER]
                error = self._try_rows(version, some)
                if error is not None:
                    for row in some:
                        if id(row.pending) not in failed:
                            failed.add(id(row.pending))
                            self._reply(row.pending.request, error)
        for pending in group:
            if id(pending) not in failed and all(pending.slots):
                result = GenerateResult(results=[slot for slot in pending.slots if slot])
                reply = WorkerReply(event="result", data=result.model_dump(mode="json"))
                self._reply(pending.request, reply)

    def _try_rows(self, version: str, rows: Sequence[Row]) -> WorkerReply | None:
        """Answer rows of one version; the error to send if that fails."""
        try:
            self._rows(version, rows)
        except Exception as error:
            return _error_reply(error)
        return None

    def _rows(self, version: str, rows: Sequence[Row]) -> None:
        view = self._views.get(version)
        decoder = Decoder(
            view, [row.prompt for row in rows], [row.pending.sampling for row in rows]
        )
        gone: set[str] = set()
        for changed in decoder.steps():
            for i in changed:
                pending, result = rows[i].pending, decoder.results[i]
                if pending.body.stream:
                    data = _token(result.tokens[-1]).model_dump(mode="json")
                    self._reply(pending.request, WorkerReply(event="token", data=data))
            ids = {row.pending.request.id for row in rows} - gone
            gone |= {request_id for request_id in ids if self._requests.gone(request_id)}
            for row, result in zip(rows, decoder.results, strict=True):
                if row.pending.request.id in gone and result.finish_reason is None:
                    result.finish_reason = "length"
            if self.stop.is_set():
                raise RuntimeError("the worker is stopping")
        for row, result in zip(rows, decoder.results, strict=True):
            row.pending.slots[row.slot] = _generation(view, version, row, result)

    # ------------------------------------------------------------ rollback

    def _roll_back(self, request: WorkerRequest) -> None:
        """Make the target ready to serve, then move head to it."""
        [target] = request.versions
        self._views.get(target)
        while True:
            previous = self._store.head().version
            try:
                self._store.move_head(
                    target,
                    expected=previous,
                    job_id=None,
                    fence=self._lease.fence,
                    who=str(request.body.get("who", "api")),
                    why=str(request.body.get("why") or "rollback"),
                )
                break
            except HeadMoved:
                continue  # an edit was committed in between: go back from there
        manifest = self._store.version(target)
        result = RollbackResult(
            version=target, previous=previous, weights_sha256=manifest.weights_sha256
        )
        self._reply(request, WorkerReply(event="result", data=result.model_dump(mode="json")))

    # ------------------------------------------------------------ replies

    def _guarded(self, request: WorkerRequest, action: object) -> None:
        try:
            action()  # type: ignore[operator]
        except Exception as error:
            self._reply(request, _error_reply(error))

    def _reply(self, request: WorkerRequest, reply: WorkerReply) -> None:
        self._requests.reply(request.id, reply)


def _rounds(batch: Sequence[Pending]) -> list[list[Pending]]:
    """Requests to be decoded together; a deterministic one is decoded alone."""
    together = [pending for pending in batch if not pending.body.deterministic]
    alone = [[pending] for pending in batch if pending.body.deterministic]
    return ([together] if together else []) + alone


def _error_reply(error: Exception) -> WorkerReply:
    if isinstance(error, torch.OutOfMemoryError):
        code, message = "out_of_memory", "not enough memory for this request now"
    elif isinstance(error, UnknownVersion):
        code, message = "unknown_version", str(error)
    elif isinstance(error, StaleFence):
        code, message = "stale_fence", "another worker has taken over"
    elif isinstance(error, CorruptTensor):
        code, message = "corrupt_version", str(error)
    else:
        log.exception("a request failed", exc_info=error)
        code, message = "internal_error", f"{type(error).__name__}: {error}"
    data = JobError(code=code, message=message).model_dump(mode="json")
    return WorkerReply(event="error", data=data)


def _generation(view: ModelView, version: str, row: Row, result: Generated) -> Generation:
    candidates = row.pending.body.candidates
    scored = score(view, [(row.prompt, text) for text in candidates]) if candidates else []
    return Generation(
        version=version,
        prompt=row.prompt,
        text=result.text,
        tokens=[_token(token) for token in result.tokens],
        finish_reason=result.finish_reason or "length",
        candidates=[
            CandidateScore(
                text=text,
                tokens=one.tokens,
                log_probability=one.log_probability,
                probability=exp(one.mean),
            )
            for text, one in zip(candidates, scored, strict=True)
        ],
    )


def _token(token: Token) -> GeneratedToken:
    top = [TokenProbability(id=i, text=text, probability=p) for i, text, p in token.top]
    return GeneratedToken(id=token.id, text=token.text, probability=token.probability, top=top)
