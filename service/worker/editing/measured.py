"""The measures of versions before and after an edit: answers to facts, and guarded figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TypeVar

from jeep_core.evaluation.outcomes import Said, Surroundings, said
from jeep_core.models.giving_way import giving_way
from jeep_core.models.views import ModelView
from jeep_core.monitor import Monitor
from jeep_core.spec.facts import Fact
from jeep_core.spec.hparams import Contexts
from service.contracts.schemas import Guards
from service.worker.aside import aside
from service.worker.editing.earlier import Found, Sample, ask
from service.worker.editing.guards import GuardMeter
from service.worker.gate import Gate

T = TypeVar("T")


@dataclass(frozen=True)
class Measured:
    """A version's answers to the facts of an edit, and what its guards compare."""

    said: Said
    beside: Surroundings


@dataclass(frozen=True)
class Batch:
    """Facts that are edited together, in the ways in which they are asked."""

    facts: Sequence[Fact]
    contexts: Contexts
    guards: Guards | None


class Measurer:
    """Measures versions; ``share`` of its time is kept while something is decoded."""

    def __init__(self, meter: GuardMeter, gate: Gate, share: float) -> None:
        self._meter, self._gate, self._share = meter, gate, share

    def measure(self, view: ModelView, batch: Batch, monitor: Monitor) -> Measured:
        """Ask a version; ``monitor.check`` is called now and then."""
        with giving_way(view, monitor):
            answers = said(view, batch.facts, batch.contexts, monitor)
            weights = view.weights_sha256() if batch.guards else ""
            beside = self._meter.measure(view, weights, batch.facts, batch.guards, monitor)
        return Measured(answers, beside)

    def before(
        self, view: ModelView, batch: Batch, free: int, monitor: Monitor
    ) -> AbstractContextManager[Callable[[], Measured]]:
        """Measure a batch's parent, beside the block if so many ``free`` threads are left.

        Then the block must not run ``view``; a fork of it has none of its hooks.  What guards
        measure may take longer than an edit, and is quicker with all threads.
        """
        free = 0 if batch.guards is not None else free
        return self._beside(lambda one: self.measure(view, batch, one), free, monitor)

    def earlier(
        self, some: Sample, before: ModelView, after: ModelView, free: int, monitor: Monitor
    ) -> AbstractContextManager[Callable[[], Found]]:
        """Ask a new version a sample of facts, beside the block if ``free`` threads are left.

        Then the block must not run ``before``.
        """
        if not some.facts:
            return nullcontext(lambda: Found([], [], []))
        # the hooks of another thread are not those of this one
        edited = after.fork() if free else after
        return self._beside(lambda one: ask(some, before, edited, one), free, monitor)

    def _beside(
        self, work: Callable[[Monitor], T], free: int, monitor: Monitor
    ) -> AbstractContextManager[Callable[[], T]]:
        if not free:
            found = work(monitor)
            return nullcontext(lambda: found)
        turn = self._gate.another_turn(self._share)

        def polite(check: Callable[[], None]) -> Monitor:
            def give_way() -> None:
                check()
                turn.take(check)

            return Monitor(check=check, give_way=give_way)

        return aside(lambda check: work(polite(check)), free)
