"""Guards: an edit's figures on the new version beside its parent's, and the limits they keep."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from jeep_core.errors import JeepError
from jeep_core.evaluation.drift import Passage, ability, drift
from jeep_core.evaluation.outcomes import Figures, Surroundings, neighbor_answers
from jeep_core.evaluation.perplexity import perplexity
from jeep_core.models.giving_way import giving_way
from jeep_core.models.loading import texts_of
from jeep_core.models.views import ModelView
from jeep_core.monitor import Monitor
from jeep_core.spec.facts import Fact
from service.contracts.schemas import Guards
from service.worker.editing.unrelated import unrelated_facts, unrelated_text
from service.worker.failures import GuardFailed, Refused

PERPLEXITIES_KEPT = 64
FEWEST_KNOWN = 8
"""Facts that a model must know for the share of them that it keeps to mean anything."""


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
        monitor: Monitor,
    ) -> Surroundings:
        """Measure what the guards need; ``monitor.check`` is called now and then."""
        if guards is None:
            return Surroundings()
        said = None if guards.min_locality is None else neighbor_answers(view, facts, monitor)
        ratio = guards.max_perplexity_ratio
        found = None if ratio is None else self._perplexity(view, weights_sha256, monitor)
        return Surroundings(said, found)

    def between(
        self,
        before: ModelView,
        after: ModelView,
        facts: Sequence[Fact],
        guards: Guards,
        monitor: Monitor,
    ) -> dict[str, Any]:
        """Figures of both versions together, as far as the guards need them: fields of `Figures`.

        Raises:
            Refused: the version before knows too few facts for ``min_ability``.
            JeepError: the text for ``max_drift`` has no token to predict.
            NumericalError: a probability is not finite.
            Whatever ``monitor.check`` raises.
        """
        found: dict[str, Any] = {}
        model = before.base.name
        with giving_way(before, monitor), giving_way(after, monitor):
            if guards.max_drift is not None:
                texts, source = unrelated_text(model, self._text)
                passages = [Passage(one) for one in texts]
                moved = drift(before, after, passages, max_tokens=self._max_tokens, monitor=monitor)
                if not moved.tokens:
                    raise JeepError(
                        f"max_drift cannot be measured: {source} has no token to predict; leave "
                        "it out, or have JEEP_PERPLEXITY_TEXT name a longer text"
                    )
                found["drift"] = moved.kl
            if guards.min_ability is not None:
                asked, source = unrelated_facts(model, {fact.subject for fact in facts})
                known, kept = ability(before, after, asked, monitor)
                if known < FEWEST_KNOWN:
                    message = (
                        f"min_ability cannot be measured: of {len(asked)} facts ({source}) the "
                        f"model knows {known}, and {FEWEST_KNOWN} are needed; leave it out, or set "
                        "max_drift instead"
                    )
                    raise Refused("no_ability", message)
                found |= {"ability": kept / known, "ability_facts": known}
        return found

    def _perplexity(self, view: ModelView, weights_sha256: str, monitor: Monitor) -> float:
        found = self._known.get(weights_sha256)
        if found is None:
            if self._texts is None:
                self._texts = texts_of(self._text) if self._text else []
            found = perplexity(view, self._texts, max_tokens=self._max_tokens, monitor=monitor)
        self._known[weights_sha256] = found
        self._known.move_to_end(weights_sha256)
        while len(self._known) > PERPLEXITIES_KEPT:
            self._known.popitem(last=False)
        return found


def check(guards: Guards, found: Figures) -> None:
    """Compare figures with their limits; a figure that is not finite fails.

    Raises:
        GuardFailed: with every guard that tripped.
    """
    errors: list[dict[str, str | float]] = []
    for name, said, figure, below in (
        ("min_success", "the share of facts that are written", found.success, True),
        ("min_efficacy", "efficacy", found.efficacy, True),
        ("min_locality", "locality", found.locality, True),
        ("max_perplexity_ratio", "the perplexity ratio", found.perplexity_ratio, False),
        ("max_drift", "the drift", found.drift, False),
        ("min_ability", "ability", found.ability, True),
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
