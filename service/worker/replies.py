"""What was asked and what is answered: requests on their way, results, errors."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import exp

from jeep_core.decoding import Row, Token
from jeep_core.errors import NumericalError
from jeep_core.generation import Sampling, Scored
from jeep_core.views import ModelView
from service.schemas import (
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

    ``sent``: how many tokens of a stream have gone out.  ``error``: why there is no answer: the
    version's logits are no numbers here.
    """

    pending: Pending
    version: str
    view: ModelView
    row: Row
    scores: list[Scored | None]
    sent: int = 0
    error: NumericalError | None = None

    @property
    def complete(self) -> bool:
        """Whether nothing is left to compute."""
        return self.row.finished and None not in self.scores


@dataclass(eq=False)
class Pending:
    """A generate request on its way: a slot per prompt and version, prompts outermost.

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
        self.left = len(self.slots)

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
        """The last reply, once every slot is complete."""
        result = GenerateResult(results=[_generation(slot) for slot in self.slots])
        return WorkerReply(event="result", data=result.model_dump(mode="json"))


def new_tokens(slot: Slot) -> list[WorkerReply]:
    """The tokens of a stream that have not gone out yet."""
    fresh = slot.row.result.tokens[slot.sent :]
    slot.sent += len(fresh)
    return [WorkerReply(event="token", data=_token(t).model_dump(mode="json")) for t in fresh]


def error_reply(error: Exception) -> WorkerReply:
    """The last reply of a request that cannot be answered."""
    if not is_foreseen(error):
        log.exception("a request failed", exc_info=error)
    data = failure(error).model_dump(mode="json")
    return WorkerReply(event="error", data=data)


def _generation(slot: Slot) -> Generation:
    result, candidates = slot.row.result, slot.pending.body.candidates
    return Generation(
        version=slot.version,
        prompt=result.prompt,
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
            for text, one in zip(candidates, slot.scores, strict=True)
            if one is not None
        ],
    )


def _token(token: Token) -> GeneratedToken:
    top = [TokenProbability(id=i, text=text, probability=p) for i, text, p in token.top]
    return GeneratedToken(
        id=token.id, text=token.text, probability=token.probability, top=top, delta=token.delta
    )
