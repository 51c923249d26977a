"""Guards: an edit's figures on the new version beside its parent's, and the limits they keep."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from statistics import fmean

from jeep_core.decoding.generation import Decoder, Sampling, checked, score
from jeep_core.evaluation.perplexity import perplexity
from jeep_core.models.loading import texts_of
from jeep_core.models.views import ModelView
from jeep_core.spec.facts import Fact
from jeep_core.text.encoding import count
from jeep_core.text.joining import Join
from service.contracts.schemas import FactOutcome, GuardFigures, Guards
from service.worker.failures import GuardFailed

ANSWER_TOKENS = 5
"""Of a greedy answer to a neighborhood prompt."""
FACTS_TOGETHER = 32
PERPLEXITIES_KEPT = 64

Said = list[list[bool | str]]
"""Per fact and neighborhood prompt: whether the old answer is more probable than the new one
or, where the fact names no old answer, the greedy answer."""

Checkpoint = Callable[[], None]


@dataclass(frozen=True)
class Measured:
    """The figures of one version that the guards need."""

    said: Said | None = None
    perplexity: float | None = None


class GuardMeter:
    """Measures versions.  Perplexities are remembered by the hash of the weights."""

    def __init__(self, text: Path | None, max_tokens: int) -> None:
        self._text, self._max_tokens = text, max_tokens
        self._texts: list[str] | None = None
        self._known: OrderedDict[str, float] = OrderedDict()

    def measure(
        self,
        view: ModelView,
        weights_sha256: str,
        facts: Sequence[Fact],
        guards: Guards | None,
        checkpoint: Checkpoint,
    ) -> Measured:
        """Measure what the guards need; ``checkpoint`` is called periodically."""
        if guards is None:
            return Measured()
        said = None if guards.min_locality is None else neighbor_answers(view, facts, checkpoint)
        ratio = guards.max_perplexity_ratio
        found = None if ratio is None else self._perplexity(view, weights_sha256, checkpoint)
        return Measured(said, found)

    def _perplexity(self, view: ModelView, weights_sha256: str, checkpoint: Checkpoint) -> float:
        found = self._known.get(weights_sha256)
        if found is None:
            if self._texts is None:
                self._texts = texts_of(self._text) if self._text else []
            found = perplexity(
                view, self._texts, max_tokens=self._max_tokens, checkpoint=checkpoint
            )
        self._known[weights_sha256] = found
        self._known.move_to_end(weights_sha256)
        while len(self._known) > PERPLEXITIES_KEPT:
            self._known.popitem(last=False)
        return found


def neighbor_answers(
    view: ModelView, facts: Sequence[Fact], checkpoint: Checkpoint = lambda: None
) -> Said:
    """A version's answers to the neighborhood prompts of every fact that has some."""
    asked = [fact for fact in facts if fact.neighborhood_prompts]
    said: Said = []
    for start in range(0, len(asked), FACTS_TOGETHER):
        checkpoint()
        said += _answers_together(view, asked[start : start + FACTS_TOGETHER])
    return said


def _answers_together(view: ModelView, facts: Sequence[Fact]) -> Said:
    pairs, prompts = [], []
    joins: list[Join] = []
    for fact in facts:
        for prompt in fact.neighborhood_prompts:
            if fact.target_true is None:
                prompts.append(prompt)
            else:
                pairs += [(prompt, fact.target_true), (prompt, fact.target_new)]
                joins += [fact.join, fact.join]
    scores = iter([one.mean for one in checked(score(view, pairs, joins))])
    texts = iter(_greedy(view, prompts))
    return [
        [
            next(texts) if fact.target_true is None else next(scores) > next(scores)
            for _ in fact.neighborhood_prompts
        ]
        for fact in facts
    ]


def _greedy(view: ModelView, prompts: Sequence[str]) -> list[str]:
    """The first tokens of the greedy answers, as far as the model's positions reach."""
    tokenizer, limit = view.base.tokenizer, view.base.max_positions
    rooms = [limit - count(tokenizer, prompt) for prompt in prompts]
    samplings = [Sampling(max_new_tokens=min(ANSWER_TOKENS, room)) for room in rooms]
    decoder = Decoder(view, prompts, samplings)
    for _ in decoder.steps():
        pass
    return [result.text for result in decoder.results]


def locality(edited: Said, parent: Said) -> float:
    """Mean over the facts of the share of neighborhood prompts that are answered as they should.

    Old answers must win (appendix C of the paper); greedy ones must be the parent's.
    """
    return fmean(
        fmean(now if isinstance(now, bool) else now == then for now, then in zip(a, b, strict=True))
        for a, b in zip(edited, parent, strict=True)
    )


def figures(outcomes: Sequence[FactOutcome], before: Measured, after: Measured) -> GuardFigures:
    """All measured figures."""
    found = GuardFigures(
        efficacy=fmean(one.after.is_new for one in outcomes),
        efficacy_before=fmean(one.before.is_new for one in outcomes),
    )
    if before.said is not None and after.said is not None:
        found.locality = locality(after.said, before.said)
        found.locality_before = locality(before.said, before.said)
    if before.perplexity is not None and after.perplexity is not None:
        found.perplexity, found.perplexity_before = after.perplexity, before.perplexity
        found.perplexity_ratio = after.perplexity / before.perplexity
    return found


def check(guards: Guards, found: GuardFigures) -> None:
    """Compare figures with their limits; a figure that is not finite fails.

    Raises:
        GuardFailed: with every guard that tripped.
    """
    errors: list[dict[str, str | float]] = []
    for name, said, figure, below in (
        ("min_efficacy", "efficacy", found.efficacy, True),
        ("min_locality", "locality", found.locality, True),
        ("max_perplexity_ratio", "the perplexity ratio", found.perplexity_ratio, False),
    ):
        limit: float | None = getattr(guards, name)
        if limit is None or figure is None:
            continue
        kept = figure >= limit if below else figure <= limit
        if not kept:
            message = f"{said} is {figure:.4g}, {'below' if below else 'above'} {limit:g}"
            errors.append(
                {
                    "pointer": f"/guards/{name}",
                    "code": name,
                    "message": message,
                    "limit": limit,
                    "figure": figure if isfinite(figure) else str(figure),
                }
            )
    if errors:
        raise GuardFailed(errors)
