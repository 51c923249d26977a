"""Trials: edit a view, measure, throw the edit away.

Optimised values do not depend on how many facts are edited together, so they are computed once
and reused for every batch drawn from the same cases, and for every editor with the same objective.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jeep_core.editing import run_editor, tokenize
from jeep_core.editors.base import EditContext, EditorOutcome, objective_for
from jeep_core.errors import InvalidHParams, NumericalError
from jeep_core.evaluation.metrics import Summary, summarise
from jeep_core.evaluation.units import measure_apart
from jeep_core.executors.here import HERE
from jeep_core.executors.work import Bench, Executor, Work
from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView
from jeep_core.moments.cache import Moments, MomentTerms
from jeep_core.monitor import NOTHING, Monitor, nothing
from jeep_core.probe.anchor import anchor_for
from jeep_core.spec.facts import Fact
from jeep_core.spec.hparams import Contexts, EditorHParams, contexts_of
from jeep_core.suites import Style
from jeep_core.values.anchor import TypicalNorm
from jeep_core.values.cache import ValueCache, set_key
from jeep_core.values.optimiser import FactTokens, Values

TASK = "jeep_core.evaluation.trials:settings_unit"


@dataclass(frozen=True)
class TrialTerms:
    """All of `Trials` that another process needs; ``folder`` is that of its cache."""

    cases: Sequence[Fact]
    moments: MomentTerms
    prefixes: Sequence[str]
    hypernetworks: Path | None
    folder: Path | None

    def of(self, base: LoadedModel, monitor: Monitor) -> Trials:
        """The same trials of the same model in another process."""
        return Trials(
            base,
            self.cases,
            self.moments.of(base),
            self.prefixes,
            monitor,
            self.hypernetworks,
            # on another machine it may not be there, and nothing is to be left
            cache=ValueCache(self.folder if self.folder and self.folder.is_dir() else None),
        )


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
    _anchors: dict[str, TypicalNorm | None] = field(default_factory=dict, repr=False)
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
            self.moments.ensure(hparams.moment_layers, self.monitor, self.executor)
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

    def _anchor(self, editor: str, hparams: EditorHParams) -> TypicalNorm | None:
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
            self._anchors[name] = None if found is None else found.wanted
        return self._anchors[name]

    def run(self, editor: str, hparams: EditorHParams, index: Sequence[int]) -> Summary:
        """Edit the cases of these numbers together and score them."""
        view, _ = self.edit(editor, hparams, index)
        cases = [self.cases[i] for i in index]
        records = measure_apart(
            view, cases, Style.CONTRAST, executor=self.executor, monitor=self.monitor
        )
        return summarise([record.scores for record in records])

    def outcomes(self, editor: str, settings: Sequence[EditorHParams]) -> Iterator[Summary | str]:
        """The figures of all cases with each of the settings, or why there are none.

        Settings that need different values are tried by different workers of the executor, one
        whole setting each; what those of one group need is computed once.  Moments that workers
        use must be in a folder: without one, the executor divides each setting by facts and cases.
        """
        groups: dict[str, list[int]] = {}
        for number, hparams in enumerate(settings):
            groups.setdefault(self._shares(editor, hparams), []).append(number)
        needed = any(hparams.moment_layers for hparams in settings)
        alone = needed and self.moments.folder is None
        if self.executor.workers == 1 or len(groups) == 1 or alone:
            yield from (self.outcome(editor, hparams) for hparams in settings)
            return
        for hparams in settings:
            if hparams.moment_layers:
                self.moments.ensure(hparams.moment_layers, self.monitor, self.executor)
        folders = (self.hypernetworks, self.cache.folder)
        terms = TrialTerms(
            self.cases, self.moments.terms, self.prefixes, *(f and f.resolve() for f in folders)
        )
        units = [(editor, [settings[i] for i in group]) for group in groups.values()]
        work = Work(TASK, "try settings", terms, units, [len(group) for _, group in units])
        results = self.executor.run(work, Bench(ModelView(self.base), self.monitor))
        found = {
            number: outcome
            for group, outcomes in zip(groups.values(), results, strict=True)
            for number, outcome in zip(group, outcomes, strict=True)
        }
        yield from (found[number] for number in range(len(settings)))

    def outcome(self, editor: str, hparams: EditorHParams) -> Summary | str:
        """The figures of all cases, or why the setting cannot be carried out."""
        try:
            return self.run(editor, hparams, range(len(self.cases)))
        except (InvalidHParams, NumericalError) as error:
            return str(error)

    def _shares(self, editor: str, hparams: EditorHParams) -> str:
        """A name that settings share which need the same values."""
        objective = objective_for(editor, hparams)
        if objective is None:
            return hparams.model_dump_json()
        return f"{set_key(self.base, objective)} {hparams.prefix_count} {contexts_of(hparams)}"

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


def settings_unit(
    bench: Bench, common: TrialTerms, unit: tuple[str, Sequence[EditorHParams]]
) -> list[Summary | str]:
    """The figures of settings of one editor, or why there are none."""
    quiet = bench.monitor.reporting(nothing)
    trials = bench.made("trials", lambda: common.of(bench.view.base, quiet))
    (editor, settings), found = unit, []
    for hparams in settings:
        found.append(trials.outcome(editor, hparams))
        bench.monitor.report("try settings", len(found), len(settings))
    return found
