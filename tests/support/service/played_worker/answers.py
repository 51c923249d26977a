"""Answers to the requests of an api: in turn, and as their prompts and reasons say."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pydantic import BaseModel

from service.contracts.jobs import JobError
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
from service.contracts.schemas.effects.explanation import (
    ExplainAsk,
    ExplainedFact,
    ExplainedLayer,
    ExplainedMatrix,
    ExplainedPart,
    ExplainedPlace,
    ExplainResult,
)
from service.queue import Heartbeat, Keys, RequestQueue, WorkerBeat, connect
from service.store import Store
from support.service.played_worker.computing import TENSOR, bytes_of

Answer = Callable[[WorkerRequest], None]
HANG, FAIL, BREAK = 11, 12, 13
"""First tokens of completions that are not answered, refused, or broken off."""


class RequestLoop:
    """Takes requests and has each answered; remembers what was ``asked``."""

    def __init__(self, requests: RequestQueue, answer: Answer) -> None:
        self.requests, self.answer = requests, answer
        self.asked: list[WorkerRequest] = []
        self.stop = threading.Event()

    def run(self) -> None:
        while not self.stop.is_set():
            for request in self.requests.take(50, 8):
                self.asked.append(request)
                self.answer(request)


def explanation(version: str, ask: ExplainAsk) -> ExplainResult:
    """An answer that one fact has brought about, at one token of one layer."""
    part = ExplainedPart(fact=0, norm=2.0, share=0.9)
    place = ExplainedPlace(position=1, norm=2.5, relative=0.25, facts=[part])
    fact = ExplainedFact(
        version=version, edit_id="edit_1", index=0, subject="Lyon", prompt="Lyon is in",
        target_new="Italy", state="live", share=0.9, without=0.05,
    )  # fmt: skip
    return ExplainResult(
        version=version, prompt=ask.prompt, answer=ask.answer or " Italy",
        tokens=["Lyon", " is", " Italy"], answer_at=2, base_probability=0.01, probability=0.8,
        layers=[ExplainedLayer(layer=3, probability=0.8, change=0.79)], facts=[fact],
        matrices=[ExplainedMatrix(layer=3, name="h.3.mlp", places=[place])],
        warnings=["v9: its editor is not installed"],
    )  # fmt: skip


@contextmanager
def answering(
    url: str, keys: Keys, beat: Callable[[], WorkerBeat], *replies: WorkerReply
) -> Iterator[None]:
    """A worker that lives, and answers every request with these replies."""
    client = connect(url)
    requests = RequestQueue(client, keys, beat().instance)
    heart = Heartbeat(client, keys, beat)

    def answer(asked: WorkerRequest) -> None:
        for reply in replies:
            requests.reply(asked.id, reply)

    loop = RequestLoop(requests, answer)
    thread = threading.Thread(target=loop.run, daemon=True)
    heart.start()
    thread.start()
    try:
        yield
    finally:
        loop.stop.set()
        thread.join(timeout=5)
        heart.stop()
        client.close()


class PlayedAnswers(RequestLoop):
    """Moves head and restores tensors for real; a prompt decides how its generation goes.

    ``hang``: no answer until the client leaves, who is then among the ``abandoned``; ``fail``: an
    error; ``break``: an error after some tokens; ``linger``: nothing after them; any other:
    " a b", at once.
    """

    def __init__(self, store: Store, requests: RequestQueue, fence: int) -> None:
        super().__init__(requests, self._answer)
        self.store, self.fence = store, fence
        self.abandoned: list[str] = []

    def _answer(self, request: WorkerRequest) -> None:
        kinds = {
            "rollback": self._roll_back,
            "activate": self._activate,
            "restore": self._restore,
            "complete": self._complete,
            "explain": self._explain,
        }
        kinds.get(request.kind, self._generate)(request)

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
        if first == "linger":
            self._until_abandoned(request)
            return
        results = [
            Generation(
                version=v, prompt=p, text=f"{v} says {p}", tokens=tokens, finish_reason="length"
            )
            for p in body.all_prompts
            for v in request.versions
        ]
        self._reply(request, "result", GenerateResult(results=results))

    def _explain(self, request: WorkerRequest) -> None:
        """Lyon's fact moves every answer; the prompt ``dense`` is one of an editor that cannot."""
        ask = ExplainAsk.model_validate(request.body)
        if ask.prompt == "dense":
            error = JobError(code="not_explainable", message="no column for each fact")
            self._reply(request, "error", error)
            return
        self._reply(request, "result", explanation(request.versions[0], ask))

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
