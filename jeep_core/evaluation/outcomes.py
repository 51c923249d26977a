"""Whether an edit succeeded: answers to its facts before and after, and what its guards compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from math import exp
from statistics import fmean
from typing import Any

from jeep_core.decoding.asking import Question, Told, ask
from jeep_core.decoding.generation import checked
from jeep_core.decoding.scoring import goes_on
from jeep_core.editing import EditResult
from jeep_core.models.giving_way import giving_way
from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView
from jeep_core.monitor import NOTHING, Monitor
from jeep_core.spec.chats import as_asked_in_chat
from jeep_core.spec.facts import Fact
from jeep_core.spec.hparams import Contexts, contexts_of
from jeep_core.values.objective import Values

ANSWER_TOKENS = 10
"""Of the greedy answer to an edit prompt, more if the new answer is longer."""
NEIGHBOR_TOKENS = 5
"""Of a greedy answer to a neighborhood prompt."""

NeighborAnswers = list[list[bool | str]]
"""Per fact and neighborhood prompt: whether the old answer is more probable than the new one
or, where the fact names no old answer, the greedy answer."""


@dataclass(frozen=True)
class Answer:
    """A version's answer to a fact's prompt; probabilities are per-token geometric means.

    ``text`` is the greedy answer.  ``writes_new``: it is ``target_new``, all of it and as whole
    words.
    """

    p_new: float
    p_true: float | None
    text: str
    writes_new: bool

    @property
    def is_new(self) -> bool:
        """Whether the new answer is more probable than the old one or, without one, written."""
        return self.writes_new if self.p_true is None else self.p_new > self.p_true


@dataclass(frozen=True)
class Outcome:
    """One fact before and after an edit.

    ``steps`` and ``target_probability`` are of the optimisation of its values, None for editors
    that optimise none; the probability is None, too, where ``norm_anchor`` has changed the vector
    that it was measured with.  ``chat_before``, ``chat_after``: answers in a chat, where the fact
    was edited for both ways of asking.
    """

    fact: Fact
    before: Answer
    after: Answer
    steps: int | None = None
    target_probability: float | None = None
    chat_before: Answer | None = None
    chat_after: Answer | None = None

    @property
    def success(self) -> bool:
        """Whether the edited model writes the new answer, in each way that it was edited for."""
        return _written(self.after, self.chat_after)

    @property
    def success_before(self) -> bool:
        """Whether the model before did so already."""
        return _written(self.before, self.chat_before)


def _written(answer: Answer, in_chat: Answer | None) -> bool:
    return answer.writes_new and (in_chat is None or in_chat.writes_new)


@dataclass(frozen=True)
class Surroundings:
    """A version's answers beside the facts of an edit, and its perplexity; None: not measured."""

    neighbors: NeighborAnswers | None = None
    perplexity: float | None = None

    def of_facts(self, first: Sequence[Fact]) -> Surroundings:
        """The same, beside the ``first`` ones of its facts alone."""
        some = sum(bool(fact.neighborhood_prompts) for fact in first)
        return replace(self, neighbors=(self.neighbors or [])[:some] or None)


@dataclass(frozen=True)
class Figures:
    """An edit's figures; ``…_before`` is that of the version it started from.

    ``efficacy``: share of the facts whose new answer wins, by the plain answers where facts were
    edited for both ways of asking.  ``success``: share of the facts that are written in each way
    that they were edited for.  ``locality``: see `locality`.
    ``drift``: mean KL between the two versions in nats per token of a text; ``ability``: share of
    ``ability_facts`` unrelated facts that the version before knows and the new one still does.
    """

    efficacy: float
    efficacy_before: float
    success: float | None = None
    success_before: float | None = None
    locality: float | None = None
    locality_before: float | None = None
    perplexity: float | None = None
    perplexity_before: float | None = None
    perplexity_ratio: float | None = None
    drift: float | None = None
    ability: float | None = None
    ability_facts: int | None = None


def judged(
    before: LoadedModel | ModelView, result: EditResult, monitor: Monitor = NOTHING
) -> list[Outcome]:
    """The outcome of every fact of an edit; ``before`` is the model that was edited.

    Raises:
        NumericalError: a probability is not finite.
        Whatever ``monitor.check`` raises.
    """
    start = before if isinstance(before, ModelView) else ModelView(before)
    contexts = contexts_of(result.hparams)
    with giving_way(start, monitor), giving_way(result.view, monitor):
        first = said(start, result.facts, contexts, monitor)
        then = said(result.view, result.facts, contexts, monitor)
    return outcomes(result.facts, first, then, result.values)


@dataclass(frozen=True)
class Said:
    """A version's answers to facts as they are edited: to each, and those in a chat beside them.

    ``chat`` is empty unless facts are edited for both ways of asking.
    """

    answers: Sequence[Answer]
    chat: Sequence[Answer] = ()


def said(
    view: ModelView,
    facts: Sequence[Fact],
    contexts: Contexts,
    monitor: Monitor = NOTHING,
    tokens: int = ANSWER_TOKENS,
) -> Said:
    """A version's answers to facts in the ways that ``contexts`` names.

    ``tokens``: of a greedy answer, which goes on for one more than the new answer has in any case:
    then it is known whether it writes that.

    Raises:
        NumericalError: a probability is not finite.
        InvalidFacts: a fact has no form in a chat, and the model no template.
    """
    if contexts == "plain":
        return Said(answers(view, facts, monitor, tokens))
    chats = [as_asked_in_chat(fact, view.base.chat) for fact in facts]
    if contexts == "chat" or all(fact.messages for fact in facts):
        return Said(answers(view, chats, monitor, tokens))
    # together: a step of greedy answers reads all weights once, however many prompts go on
    both = answers(view, [*facts, *chats], monitor, tokens)
    return Said(both[: len(facts)], both[len(facts) :])


def answers(
    view: ModelView,
    facts: Sequence[Fact],
    monitor: Monitor = NOTHING,
    tokens: int = ANSWER_TOKENS,
) -> list[Answer]:
    """A version's answer to the prompt of each fact; ``monitor.check`` is called now and then.

    ``tokens`` as in `said`.

    Raises:
        NumericalError: a probability is not finite.
    """
    told = ask(view, [_asked(fact, tokens) for fact in facts], monitor.check)
    return [_answer(fact, one) for fact, one in zip(facts, told, strict=True)]


def outcomes(
    facts: Sequence[Fact],
    before: Said,
    after: Said,
    values: Values | None = None,
) -> list[Outcome]:
    """One outcome per fact, from the answers of both versions and the edit's ``values``."""
    return [
        Outcome(
            fact,
            before.answers[i],
            after.answers[i],
            steps=int(values.steps[i]) if values else None,
            target_probability=values.probability(i) if values else None,
            chat_before=before.chat[i] if before.chat else None,
            chat_after=after.chat[i] if after.chat else None,
        )
        for i, fact in enumerate(facts)
    ]


def efficacy(found: Sequence[Answer]) -> float:
    """Share of the facts whose new answer wins."""
    return fmean(answer.is_new for answer in found)


def neighbor_answers(
    view: ModelView, facts: Sequence[Fact], monitor: Monitor = NOTHING
) -> NeighborAnswers:
    """A version's answers to the neighborhood prompts of every fact that has some.

    Raises:
        NumericalError: a probability is not finite.
        Whatever ``monitor.check`` raises.
    """
    questions = [_neighbor_questions(fact) for fact in facts if fact.neighborhood_prompts]
    told = iter(ask(view, [one for some in questions for one in some], monitor.check))
    return [[_neighbor_answer(one) for one in islice(told, len(some))] for some in questions]


def locality(edited: NeighborAnswers, before: NeighborAnswers) -> float:
    """Mean over the facts of the share of neighborhood prompts that are answered as they should.

    Old answers must win (appendix C of the JEEP paper); greedy ones must be those of before.
    """
    return fmean(
        fmean(now if isinstance(now, bool) else now == then for now, then in zip(a, b, strict=True))
        for a, b in zip(edited, before, strict=True)
    )


def figures(found: Sequence[Outcome], before: Surroundings, after: Surroundings) -> Figures:
    """All figures of an edit that were measured on both versions."""
    local: dict[str, Any] = {}
    if before.neighbors is not None and after.neighbors is not None:
        local["locality"] = locality(after.neighbors, before.neighbors)
        local["locality_before"] = locality(before.neighbors, before.neighbors)
    if before.perplexity is not None and after.perplexity is not None:
        local["perplexity"], local["perplexity_before"] = after.perplexity, before.perplexity
        local["perplexity_ratio"] = after.perplexity / before.perplexity
    return Figures(
        efficacy=efficacy([one.after for one in found]),
        efficacy_before=efficacy([one.before for one in found]),
        success=fmean(one.success for one in found),
        success_before=fmean(one.success_before for one in found),
        **local,
    )


def _answer(fact: Fact, told: Told) -> Answer:
    """A fact's answer from what was told of it."""
    new, *true = checked(told.scores)
    return Answer(
        p_new=exp(new.mean),
        p_true=exp(true[0].mean) if true else None,
        text=told.text,
        writes_new=new.greedy and not goes_on(told.text, fact.target_new),
    )


def _asked(fact: Fact, tokens: int) -> Question:
    """A fact's question: the probabilities of its answers, and what a model writes."""
    targets = [fact.target_new, *([fact.target_true] if fact.target_true else [])]
    return Question(fact.text, [(target, fact.join) for target in targets], tokens)


def _neighbor_questions(fact: Fact) -> list[Question]:
    """One question for each neighborhood prompt of a fact."""
    if fact.target_true is None:
        return [Question(prompt, (), NEIGHBOR_TOKENS) for prompt in fact.neighborhood_prompts]
    both = [(fact.target_true, fact.join), (fact.target_new, fact.join)]
    return [Question(prompt, both) for prompt in fact.neighborhood_prompts]


def _neighbor_answer(told: Told) -> bool | str:
    """Whether the old answer is more probable, or the greedy one."""
    if not told.scores:
        return told.text
    true, new = checked(told.scores)
    return true.mean > new.mean
