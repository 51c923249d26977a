"""Trials: edit a view, measure, throw the edit away.

Optimised values do not depend on how many facts are edited together, so they are computed once
and reused for every batch drawn from the same cases, and for every editor with the same objective.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jeep_core.editing import run_editor, tokenize
from jeep_core.editors.base import EditContext, EditorOutcome, objective_for
from jeep_core.evaluation.metrics import Summary, summarise
from jeep_core.evaluation.units import measure_apart
from jeep_core.executors.here import HERE
from jeep_core.executors.work import Executor
from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView
from jeep_core.moments.cache import Moments
from jeep_core.monitor import NOTHING, Monitor
from jeep_core.probe.anchor import anchor_for
from jeep_core.spec.facts import Fact
from jeep_core.spec.hparams import Contexts, EditorHParams, contexts_of
from jeep_core.suites import Style
from jeep_core.values.cache import ValueCache
from jeep_core.values.optimiser import FactTokens, Values


@dataclass
class Trials:
    """Cases of one suite on one model; edits start from the base model.

    ``prefixes``: as many as any of the hyper-parameters asks for; an edit takes the first
    ``prefix_count`` of its own.
    A ``cache`` with a folder keeps optimised values there, and a computation that was killed
    continues from them.
    """

    base: LoadedModel
    cases: Sequence[Fact]
    moments: Moments
    prefixes: Sequence[str]
    monitor: Monitor = NOTHING
    hypernetworks: Path | None = None
    executor: Executor = HERE
    cache: ValueCache = field(default_factory=ValueCache)
    _anchors: dict[str, float | None] = field(default_factory=dict, repr=False)
    _rows: dict[tuple[Contexts, int], list[FactTokens]] = field(default_factory=dict, repr=False)

    def _rows_in(self, hparams: EditorHParams) -> list[FactTokens]:
        """The rows of all cases as they are asked with these hyper-parameters."""
        asked = (contexts_of(hparams), hparams.prefix_count)
        if asked not in self._rows:
            prefixes = self.prefixes[: hparams.prefix_count]
            self._rows[asked] = tokenize(self.base, self.cases, prefixes, asked[0])
        return self._rows[asked]

    def edit(
        self, editor: str, hparams: EditorHParams, index: Sequence[int]
    ) -> tuple[ModelView, EditorOutcome]:
        """An edited view for the cases of these numbers."""
        if hparams.moment_layers:
            self.moments.ensure(hparams.moment_layers, self.monitor)
        values = self.values(editor, hparams)
        rows = self._rows_in(hparams)
        context = EditContext(
            ModelView(self.base),
            [rows[i] for i in index],
            self.moments,
            values=None if values is None else values.select(index),
            hypernetworks=self.hypernetworks,
            executor=self.executor,
            monitor=self.monitor,
        )
        context.anchor = self._anchor(editor, hparams)
        outcome, edited = run_editor(editor, context, hparams)
        return edited, outcome

    def _anchor(self, editor: str, hparams: EditorHParams) -> float | None:
        """The norm that ``norm_anchor`` asks for, measured at first use."""
        name = f"{editor} {hparams.model_dump_json()}"
        if name not in self._anchors:
            found = anchor_for(
                self.base,
                editor,
                hparams,
                self.prefixes[: hparams.prefix_count],
                folder=self.cache.folder,
                executor=self.executor,
                monitor=self.monitor,
            )
            self._anchors[name] = None if found is None else found.norm
        return self._anchors[name]

    def run(self, editor: str, hparams: EditorHParams, index: Sequence[int]) -> Summary:
        """Edit the cases of these numbers together and score them."""
        view, _ = self.edit(editor, hparams, index)
        cases = [self.cases[i] for i in index]
        records = measure_apart(
            view, cases, Style.CONTRAST, executor=self.executor, monitor=self.monitor
        )
        return summarise([record.scores for record in records])

    def values(self, editor: str, hparams: EditorHParams) -> Values | None:
        """Values of all cases, computed at first use; None if none can be known in advance."""
        objective = objective_for(editor, hparams)
        if objective is None:
            return None
        return self.cache.values(
            self.base,
            self._rows_in(hparams),
            objective,
            executor=self.executor,
            monitor=self.monitor,
        )
