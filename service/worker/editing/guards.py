"""Guards: an edit's figures on the new version beside its parent's, and the limits they keep."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from math import isfinite
from pathlib import Path

from jeep_core.evaluation.outcomes import Figures, Surroundings, neighbor_answers
from jeep_core.evaluation.perplexity import perplexity
from jeep_core.models.loading import texts_of
from jeep_core.models.views import ModelView
from jeep_core.monitor import Monitor
from jeep_core.spec.facts import Fact
from service.contracts.schemas import Guards
from service.worker.failures import GuardFailed

PERPLEXITIES_KEPT = 64


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
