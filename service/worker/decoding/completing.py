"""Completions for ``/v1``: prompts as tokens, several answers to each, scores of prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jeep_core.decoding.generation import Sampling
from jeep_core.decoding.prompt_scores import PromptScores
from jeep_core.decoding.rows import Row, Token
from jeep_core.models.views import ModelView
from service.contracts.schemas import WorkerReply
from service.contracts.schemas.completion import (
    CompletionAnswer,
    CompletionAsk,
    CompletionResult,
    ScoredToken,
    StreamedToken,
)
from service.worker.decoding.replies import Pending, Slot

LOWEST = -9999.0
"""Stands for the log-probability of what the model rules out: JSON has no infinity."""


@dataclass(eq=False)
class Completing(Pending):
    """A completion request in progress: one version, the samples of one prompt together."""

    body: CompletionAsk

    @property
    def stream(self) -> bool:
        """Whether tokens are sent as they come."""
        return self.body.stream

    def _make_slots(self, views: Sequence[ModelView]) -> list[Slot]:
        [version], [view] = self.request.versions, views
        return [
            Slot(self, version, view, Row(view.base, "", self._sampling(ids, n, view), ids), [])
            for ids in self.body.prompts
            for n in range(self.body.samples)
        ]

    def _sampling(self, ids: Sequence[int], sample: int, view: ModelView) -> Sampling:
        body = self.body
        seed = body.seed
        room = max(1, view.base.max_positions - len(ids))
        return Sampling(
            min(body.max_new_tokens, room),
            body.temperature,
            body.top_k,
            body.top_p,
            seed if seed is None or not sample else f"{seed}/{sample}",
            tuple(body.stop),
            body.top,
            frozenset(body.stop_ids),
            body.prompt_top if body.stream or not sample else None,
        )

    def prepare(self, views: Sequence[ModelView]) -> None:
        """Make the slots; if a prompt cannot be answered, none is."""
        super().prepare(views)
        if self.errors:
            self.left = 0

    def new_tokens(self, slot: Slot) -> list[WorkerReply]:
        """The events of a stream that have not gone out yet."""
        result, index = slot.row.result, self.slots.index(slot)
        events = []
        if result.scores is not None and not slot.scores_sent:
            slot.scores_sent = True
            events.append(StreamedToken(index=index, prompt=_prompt(result.scores)))
        fresh = result.tokens[slot.sent :]
        slot.sent += len(fresh)
        events += [StreamedToken(index=index, delta=t.delta, token=_token(t)) for t in fresh]
        return [WorkerReply(event="token", data=e.model_dump(mode="json")) for e in events]

    def result(self) -> WorkerReply:
        """The last reply; one prompt without an answer fails the request."""
        if self.errors:
            return WorkerReply(event="error", data=self.errors[0].model_dump(mode="json"))
        answers = [_answer(i, slot) for i, slot in enumerate(self.slots)]
        result = CompletionResult(version=self.request.versions[0], answers=answers)
        return WorkerReply(event="result", data=result.model_dump(mode="json"))


def _answer(index: int, slot: Slot) -> CompletionAnswer:
    result = slot.row.result
    return CompletionAnswer(
        index=index,
        text=result.text,
        tokens=[_token(token) for token in result.tokens],
        end=None if result.end is None else _token(result.end),
        finish_reason=result.finish_reason or "length",
        prompt=None if result.scores is None else _prompt(result.scores),
    )


def _prompt(scores: PromptScores) -> list[ScoredToken]:
    parts = zip(scores.ids, scores.own, scores.top, strict=True)
    return [_scored(token, value, top) for token, value, top in parts]


def _token(token: Token) -> ScoredToken:
    return _scored(token.id, token.log_probability, token.ranked)


def _scored(token: int, value: float, top: Sequence[tuple[int, float]]) -> ScoredToken:
    ranked = [(i, max(lp, LOWEST)) for i, lp in top]
    return ScoredToken(id=token, log_probability=max(value, LOWEST), top=ranked)
