"""Requests in progress and their answers: results, errors."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import exp

from jeep_core.decoding.batch import Row, Token
from jeep_core.decoding.generation import Sampling, Scored
from jeep_core.models.views import ModelView
from jeep_core.text.joining import join_of
from service.contracts.jobs import JobError
from service.contracts.schemas import (
    CandidateScore,
    GeneratedToken,
    GenerateRequest,
    GenerateResult,
    Generation,
    TokenProbability,
    WorkerReply,
    WorkerRequest,
)
from service.worker.failures import failure, is_foreseen

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Slot:
    """One prompt that one version answers: a row to decode, candidates to score.

    ``sent``: how many tokens of a stream have gone out.  ``error``: why it is not answered.
    """

    pending: Pending
    version: str
    view: ModelView
    row: Row
    scores: list[Scored | None]
    sent: int = 0
    error: JobError | None = None

    @property
    def complete(self) -> bool:
        """Whether nothing is left to compute, or an error prevents it."""
        return self.error is not None or (self.row.finished and None not in self.scores)


@dataclass(eq=False)
class Pending:
    """A generate request in progress: a slot per prompt and version, prompts outermost.

    ``gone``: nobody waits for it any more.  ``ended``: its last reply is sent.
    """

    request: WorkerRequest
    body: GenerateRequest
    slots: list[Slot] = field(default_factory=list)
    left: int = 0
    gone: bool = False
    ended: bool = False
    began_ns: int = field(default_factory=time.time_ns)

    def prepare(self, views: Sequence[ModelView]) -> None:
        """Make the slots; ``views`` are those of the request's versions."""
        sampling, candidates = self._sampling(), self.body.candidates
        self.slots = [
            Slot(self, version, view, Row(view.base, prompt, sampling), [None] * len(candidates))
            for prompt in self.body.all_prompts
            for version, view in zip(self.request.versions, views, strict=True)
        ]
        for slot in self.slots:
            slot.error = _unservable(slot)
        self.left = sum(slot.error is None for slot in self.slots)

    def _sampling(self) -> Sampling:
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

    def result(self) -> WorkerReply:
        """The last reply, once every slot is complete or has failed.

        A request without any answer fails as a whole.
        """
        errors = [slot.error for slot in self.slots if slot.error is not None]
        if errors and len(errors) == len(self.slots):
            return WorkerReply(event="error", data=errors[0].model_dump(mode="json"))
        result = GenerateResult(results=[_generation(slot) for slot in self.slots])
        return WorkerReply(event="result", data=result.model_dump(mode="json"))


def _unservable(slot: Slot) -> JobError | None:
    """Return the reason why a prompt cannot be given to the model, else None.

    The api has already checked this, but perhaps for the model of the previous worker.
    """
    n, limit = len(slot.row.ids), slot.view.base.max_positions
    room = limit - slot.pending.body.max_new_tokens
    if n == 0:
        return JobError(code="empty", message="the prompt has no tokens")
    if n > room:
        message = f"{n} tokens are too many: at most {max(room, 0)} leave room for the answer"
        return JobError(code="too_long", message=message)
    return None


def new_tokens(slot: Slot) -> list[WorkerReply]:
    """The tokens of a stream that have not gone out yet."""
    fresh = slot.row.result.tokens[slot.sent :]
    slot.sent += len(fresh)
    return [WorkerReply(event="token", data=_token(t).model_dump(mode="json")) for t in fresh]


def error_reply(error: Exception) -> WorkerReply:
    """The last reply of a request that cannot be answered."""
    return WorkerReply(event="error", data=error_of(error).model_dump(mode="json"))


def error_of(error: Exception) -> JobError:
    """Code and sentence for an exception; unforeseen ones are logged."""
    if not is_foreseen(error):
        log.exception("a request failed", exc_info=error)
    return failure(error)


def _generation(slot: Slot) -> Generation:
    result, body = slot.row.result, slot.pending.body
    return Generation(
        version=slot.version,
        prompt=result.prompt,
        text=result.text,
        tokens=[_token(token) for token in result.tokens],
        finish_reason="error" if slot.error else result.finish_reason or "length",
        candidates=[
            CandidateScore(
                text=text,
                join=join_of(result.prompt, text, body.join),
                tokens=one.tokens,
                log_probability=one.log_probability,
                probability=exp(one.mean),
            )
            for text, one in zip(body.candidates, slot.scores, strict=True)
            if one is not None
        ],
        error=slot.error,
    )


def _token(token: Token) -> GeneratedToken:
    top = [TokenProbability(id=i, text=text, probability=p) for i, text, p in token.top]
    return GeneratedToken(
        id=token.id, text=token.text, probability=token.probability, top=top, delta=token.delta
    )
