"""The proof of a push: the server's answers are compared with this service's own.

Questions are prompts as tokens; what is compared is the log-probability of the most probable next
token.  Of the facts that were edited, those are asked on which the version and what was there
before it differ most: a server that ignored the adapter, or applied it to other weights, shows
there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf, isnan

import torch

from jeep_core.models.views import ModelView
from service.contracts.schemas.targets import Proof
from service.worker.targets.connection import TargetFailed

Ask = Callable[[Sequence[Sequence[int]]], Sequence[Mapping[int, float]]]

ASKED = 4
"""Questions of a proof."""
CONSIDERED = 12
"""Prompts among which they are chosen."""
LONGEST = 128
"""Tokens of a question, the last ones of its prompt."""
NEUTRAL = "The capital of France is", "Once upon a time, there was a", "The number after two is"
"""Prompts that have nothing to do with an edit: they tell one base model from another."""


@dataclass(frozen=True)
class Question:
    """Tokens, the most probable one after them by our own model, and its log-probability (nats).

    ``telling``: how much less probable that token is in the version that was there before.
    """

    ids: tuple[int, ...]
    answer: int
    logprob: float
    telling: float = 0.0


def questions(
    view: ModelView, before: Sequence[ModelView], prompts: Sequence[str], rest: Callable[[], None]
) -> list[Question]:
    """The most telling questions of ``prompts``; ``rest`` is called between forward passes."""
    found = []
    for text in list(dict.fromkeys(prompts))[:CONSIDERED]:
        ids = tuple(view.base.tokenizer.encode(text).ids[-LONGEST:])
        if not ids:
            continue
        rest()
        own = next_token(view, ids)
        answer = int(own.argmax())
        telling = 0.0
        for other in before:
            rest()
            telling = max(telling, float((own[answer] - next_token(other, ids)[answer]).abs()))
        found.append(Question(ids, answer, float(own[answer]), telling))
    found.sort(key=lambda one: -one.telling)
    return found[:ASKED]


@torch.no_grad()
def next_token(view: ModelView, ids: Sequence[int]) -> torch.Tensor:
    """Log-probabilities (vocabulary,) of the next token, float32 on the CPU."""
    given = torch.tensor([list(ids)], device=view.base.device)
    logits = view.model(input_ids=given, use_cache=False).logits[0, -1]
    return torch.log_softmax(logits.float(), dim=-1).cpu()


def prove(ask: Ask, asked: Sequence[Question], tolerance: float) -> Proof:
    """Ask a server; the proof that it answers as it should.

    Raises:
        TargetFailed: ``wrong_answer``, with the difference.
    """
    answers = ask([question.ids for question in asked])
    if len(answers) != len(asked):
        message = f"the server gave {len(answers)} answers to {len(asked)} questions"
        raise TargetFailed("bad_answer", message)
    farthest = max(
        _distance(found.get(question.answer, -inf), question.logprob)
        for found, question in zip(answers, asked, strict=True)
    )
    if not farthest <= tolerance:
        how_far = "far more" if farthest == inf else f"{farthest:.2f}"
        raise TargetFailed(
            "wrong_answer",
            f"the server's answers are not ours: log-probabilities differ by {how_far} nats, "
            f"{tolerance:g} are allowed",
        )
    telling = sum(question.telling > tolerance for question in asked)
    return Proof(questions=len(asked), telling=telling, farthest=round(farthest, 6))


def _distance(theirs: float, ours: float) -> float:
    """Nats between two log-probabilities; infinite where one is no number, which ``max`` would
    pass over.
    """
    distance = abs(theirs - ours)
    return inf if isnan(distance) else distance
