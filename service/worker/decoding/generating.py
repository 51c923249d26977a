"""``POST /generate``: prompts × versions, with candidates to score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp

from jeep_core.decoding.generation import Sampling
from jeep_core.decoding.rows import Row, Token
from jeep_core.models.views import ModelView
from jeep_core.text.joining import Join, join_of
from service.contracts.schemas import (
    CandidateScore,
    GeneratedToken,
    GenerateRequest,
    GenerateResult,
    Generation,
    TokenProbability,
    WorkerReply,
)
from service.worker.decoding.replies import Pending, Slot


@dataclass(eq=False)
class Generating(Pending):
    """A generate request in progress: a slot per prompt and version, prompts outermost."""

    body: GenerateRequest

    @property
    def candidates(self) -> Sequence[str]:
        """Continuations to score after every prompt."""
        return self.body.candidates

    @property
    def join(self) -> Join:
        """How candidates follow prompts."""
        return self.body.join

    @property
    def alone(self) -> bool:
        """Whether it is computed in a batch of its own."""
        return self.body.deterministic

    @property
    def stream(self) -> bool:
        """Whether tokens are sent as they come."""
        return self.body.stream

    def _make_slots(self, views: Sequence[ModelView]) -> list[Slot]:
        sampling, count = self._sampling(), len(self.candidates)
        return [
            Slot(self, version, view, Row(view.base, prompt, sampling), [None] * count)
            for prompt in self.body.all_prompts
            for version, view in zip(self.request.versions, views, strict=True)
        ]

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

    def new_tokens(self, slot: Slot) -> list[WorkerReply]:
        """The tokens of a stream that have not gone out yet."""
        fresh = slot.row.result.tokens[slot.sent :]
        slot.sent += len(fresh)
        return [WorkerReply(event="token", data=_token(t).model_dump(mode="json")) for t in fresh]

    def result(self) -> WorkerReply:
        """The last reply; a request without any answer fails as a whole."""
        errors = self.errors
        if errors and len(errors) == len(self.slots):
            return WorkerReply(event="error", data=errors[0].model_dump(mode="json"))
        result = GenerateResult(results=[self._generation(slot) for slot in self.slots])
        return WorkerReply(event="result", data=result.model_dump(mode="json"))

    def _generation(self, slot: Slot) -> Generation:
        result = slot.row.result
        return Generation(
            version=slot.version,
            prompt=result.prompt,
            text=result.text,
            tokens=[_token(token) for token in result.tokens],
            finish_reason="error" if slot.error else result.finish_reason or "length",
            candidates=[
                CandidateScore(
                    text=text,
                    join=join_of(result.prompt, text, self.join),
                    tokens=one.tokens,
                    log_probability=one.log_probability,
                    probability=exp(one.mean),
                )
                for text, one in zip(self.candidates, slot.scores, strict=True)
                if one is not None
            ],
            error=slot.error,
        )


def _token(token: Token) -> GeneratedToken:
    top = [TokenProbability(id=i, text=text, probability=p) for i, text, p in token.top]
    return GeneratedToken(
        id=token.id, text=token.text, probability=token.probability, top=top, delta=token.delta
    )
