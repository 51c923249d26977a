"""Evaluation jobs: existing versions, or trials that edit a view and discard it.

Case records are stored in the job's work folder by chunk, optimised values of a trial by fact
block, so that a job whose worker died continues where it was.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from jeep_core import atlas
from jeep_core.editors import hparams_class
from jeep_core.errors import InvalidFacts
from jeep_core.evaluation.asking import as_asked
from jeep_core.evaluation.fluency import n_gram_entropy, written
from jeep_core.evaluation.harness.catalogue import is_task
from jeep_core.evaluation.metrics import fitting, measure
from jeep_core.evaluation.perplexity import perplexity, text_path
from jeep_core.evaluation.statistics import Interval, compare, summarise_cases
from jeep_core.evaluation.trials import Trials
from jeep_core.models.giving_way import giving_way
from jeep_core.models.loading import texts_of
from jeep_core.models.views import ModelView
from jeep_core.moments.source import origin_of
from jeep_core.monitor import Monitor
from jeep_core.probe.defaults.from_record import Chosen
from jeep_core.spec.facts import composed
from jeep_core.spec.hparams import EditorHParams, validate_hparams
from jeep_core.spec.positions import check_facts
from jeep_core.suites import Case, Style, Suite, load_suite
from jeep_core.text.chat import RefusedMessages
from jeep_core.text.counting import counted
from jeep_core.values.cache import ValueCache
from service.contracts.schemas import AUTO
from service.contracts.schemas.evaluation import (
    COMPARISONS_FILE,
    CaseChange,
    EvaluationComparison,
    EvaluationPayload,
    EvaluationPoint,
    EvaluationResult,
    MetricInterval,
    Target,
    cases_file,
)
from service.store import CorruptFile
from service.store.files import encode, read, replace
from service.worker.editing.automatic import automatic_hparams
from service.worker.editing.prefixes import kept_prefixes
from service.worker.failures import Refused
from service.worker.harness import run_tasks
from service.worker.lanes.read_lane import Task
from service.worker.partial_results import Records, write_lines

log = logging.getLogger(__name__)
CASES_TOGETHER = 256
TEXTS_TOGETHER = 64

Row = dict[str, Any]


def run(task: Task) -> EvaluationResult:
    """Measure every target of the job.

    Raises:
        Refused: the suite is gone, has changed, or has no case for this model.
        Whatever the task's control raises.
    """
    payload = EvaluationPayload.model_validate(task.job.payload)
    if is_task(payload.suite):
        return run_tasks(task, payload)
    suite = _suite(task, payload)
    plain = {case.id: case for case in suite.cases}
    asked = _asked(task, payload, suite)
    fit, skipped, left_out = fitting(task.base, asked, suite.style)
    skipped["refused_by_template"] += len(plain) - len(asked)
    if payload.editor is not None:
        usable = [case for case in fit if _editable(task, plain[case.id])]
        skipped["not_editable"] += len(fit) - len(usable)
        fit = usable
    cases = drawn(fit, payload)
    if not cases:
        why = (
            ", ".join(f"{count} {reason}" for reason, count in (+skipped).items()) or "it has none"
        )
        message = (
            f"no case of {payload.suite} can be asked of this model ({why}): take another suite"
        )
        raise Refused("no_cases", message)
    edited = [plain[case.id] for case in cases]
    chosen = _chosen(task, payload)
    hparams = None if chosen is None else chosen.hparams
    evaluation = _Evaluation(task, payload, suite.style, cases, edited, hparams)
    points = evaluation.points()
    evaluation.write_comparisons()
    return EvaluationResult(
        evaluation_id=payload.evaluation_id,
        suite=payload.suite,
        style=suite.style,
        seed=payload.seed,
        skipped=dict(+skipped),
        left_out=dict(left_out),
        points=points,
        hparams=None if hparams is None else hparams.model_dump(mode="json"),
        source=None if chosen is None else chosen.source,
        moments=_moments_from(task, hparams),
        warnings=[] if chosen is None else list(chosen.warnings),
    )


def drawn(cases: Sequence[Case], payload: EvaluationPayload) -> list[Case]:
    """The cases to measure: all, ``limit`` drawn ones in their order, or those of the trial.

    A trial edits its cases together, so no two have the same prompt; they come in random order,
    the first n for n edits.
    """
    if payload.editor is None:
        if payload.limit is None or payload.limit >= len(cases):
            return list(cases)
        chosen = random.Random(payload.seed).sample(range(len(cases)), payload.limit)
        return [cases[i] for i in sorted(chosen)]
    shuffled = random.Random(payload.seed).sample(cases, len(cases))
    asked = {composed(case.text): case for case in reversed(shuffled)}
    distinct = [case for case in shuffled if asked[composed(case.text)] is case]
    most = max(target.n_edits or 0 for target in payload.targets)
    if most > len(distinct):
        message = (
            f"{counted(most, 'edit')} asked for, {payload.suite} has {len(distinct)} "
            "for this model: ask for fewer, or take a larger suite"
        )
        raise Refused("too_few_cases", message)
    return distinct[:most]


@dataclass
class _Evaluation:
    """A running job: ``cases`` as they are asked, and as a trial edits them."""

    task: Task
    payload: EvaluationPayload
    style: Style
    cases: list[Case]
    edited: list[Case]
    hparams: EditorHParams | None = None
    _done: int = 0
    _total: int = 0
    _rows: list[list[Row]] = field(default_factory=list)

    def points(self) -> list[EvaluationPoint]:
        trials = None if self.hparams is None else _trials(self.task, self, self.hparams)
        self._total = sum(len(self._cases(target)) for target in self.payload.targets)
        found = []
        for number, target in enumerate(self.payload.targets):
            point = self._kept(number)
            if point is None:
                point = self._point(number, target, trials)
                replace(self._point_file(number), encode(point))
            found.append(point)
        return found

    def _kept(self, number: int) -> EvaluationPoint | None:
        """An earlier attempt's results for a target, if they can all be read."""
        try:
            point = read(self._point_file(number), EvaluationPoint)
        except CorruptFile as error:
            log.error("measured again: %s", error)
            return None
        if point is None:
            return None
        rows = list(self._records("cases", number).read())
        texts = list(self._records("texts", number).read())
        if len(rows) != point.cases or len(texts) != min(point.cases, self.payload.fluency_texts):
            return None
        found = {text["id"]: text for text in texts}
        self._keep(number, [_with_text(row, found) for row in rows])
        self._done += point.cases
        return point

    def _keep(self, number: int, rows: list[Row]) -> None:
        write_lines(self.task.reports / cases_file(number), rows)
        self._rows.append([_scores(row) for row in rows])

    def _records(self, what: str, number: int) -> Records:
        return Records(self.task.work / f"{what}-{number}.jsonl")

    def _point_file(self, number: int) -> Path:
        return self.task.work / f"point-{number}.json"

    def _cases(self, target: Target) -> list[Case]:
        """The cases of a target: those that a trial edits, else all cases."""
        return self.cases[: target.n_edits] if target.n_edits else self.cases

    def _point(self, number: int, target: Target, trials: Trials | None) -> EvaluationPoint:
        began = time.monotonic()
        cases = self._cases(target)
        view = self._view(target, trials)
        with giving_way(view, self.task.control.monitor):
            rows = self._measured(number, target, view, cases)
            texts = self._texts(number, view, cases)
            held = self._perplexity(view)
        rows = [_with_text(row, texts) for row in rows]
        self._keep(number, rows)
        metrics = summarise_cases(rows, self.payload.seed)
        return EvaluationPoint(
            label=target.label,
            version=target.version,
            n_edits=target.n_edits,
            cases=len(rows),
            metrics={name: _interval(value) for name, value in metrics.items()},
            perplexity=held,
            seconds=round(time.monotonic() - began, 3),
        )

    def _view(self, target: Target, trials: Trials | None) -> ModelView:
        if target.version is not None:
            return self.task.view(target.version)
        if trials is None or self.hparams is None or not target.n_edits:
            return ModelView(self.task.base)
        self.task.control.pause()
        return trials.edit(str(self.payload.editor), self.hparams, range(target.n_edits))[0]

    def _measured(
        self, number: int, target: Target, view: ModelView, cases: Sequence[Case]
    ) -> list[Row]:
        """The rows of all cases; those already measured by an earlier attempt are read."""
        kept = self._records("cases", number)
        rows = list(kept.read())
        before = self._done
        for start in range(len(rows), len(cases), CASES_TOGETHER):
            self._done = before + start
            chunk = cases[start : start + CASES_TOGETHER]
            found = [
                {"target": target.label, **record.as_json()}
                for record in measure(view, chunk, self.style, self._counting_cases(len(chunk)))
            ]
            kept.append(found)
            rows += found
        self._done = before + len(cases)
        return rows

    def _counting_cases(self, cases: int) -> Monitor:
        """A monitor that receives rows of a chunk and reports cases of the job."""

        def report(phase: str, done: int, rows: int) -> None:
            self._say(phase, self._done + done * cases // rows, self._total)

        return self.task.control.monitor.reporting(report)

    def _say(self, phase: str, done: int, total: int) -> None:
        self.task.control.progress(phase, done, total)

    def _texts(self, number: int, view: ModelView, cases: Sequence[Case]) -> dict[str, Row]:
        """Fluency and the text it was measured on, of the first cases."""
        chosen = cases[: self.payload.fluency_texts]
        kept = self._records("texts", number)
        rows = list(kept.read())
        for start in range(len(rows), len(chosen), TEXTS_TOGETHER):
            chunk = chosen[start : start + TEXTS_TOGETHER]
            prompts = [next(iter(case.generation_prompts), case.text) for case in chunk]

            def report(phase: str, done: int, total: int, start: int = start) -> None:
                self._say(phase, start + done, len(chosen))

            monitor = self.task.control.monitor.reporting(report)
            texts = written(view, prompts, self.payload.seed + start, monitor=monitor)
            found = [
                {"id": case.id, "fluency": n_gram_entropy(text), "text": text}
                for case, text in zip(chunk, texts, strict=True)
            ]
            kept.append(found)
            rows += found
        return {row["id"]: row for row in rows}

    def _perplexity(self, view: ModelView) -> float | None:
        """Perplexity on the configured text, or that of the bundled models; None without a text."""
        settings = self.task.settings
        path = text_path(self.task.base.name, settings.perplexity_text)
        if path is None:
            return None
        return perplexity(
            view,
            texts_of(path),
            max_tokens=settings.perplexity_tokens,
            monitor=self.task.control.monitor,
        )

    def write_comparisons(self) -> None:
        """Write the comparison of every pair of targets, the earlier one first."""
        numbered = list(enumerate(self.payload.targets))
        found = []
        for (i, a), (j, b) in combinations(numbered, 2):
            self.task.control.pause()
            result = compare(self._rows[i], self._rows[j], self.payload.seed)
            differences = {n: _interval(d) for n, d in result.differences.items()}
            one = EvaluationComparison(
                a=a.label,
                b=b.label,
                cases=result.cases,
                differences=differences,
                better=[CaseChange(**asdict(change)) for change in result.better],
                broken=[CaseChange(**asdict(change)) for change in result.broken],
            )
            found.append(one.model_dump(mode="json"))
        write_lines(self.task.reports / COMPARISONS_FILE, found)


def _asked(task: Task, payload: EvaluationPayload, suite: Suite) -> list[Case]:
    """The cases as they are asked, without those that a chat template refuses."""
    found: list[Case] = []
    for case in suite.cases:
        try:
            found += as_asked([case], payload.ask, task.base.chat)
        except (InvalidFacts, RefusedMessages):
            continue
    return found


def _editable(task: Task, case: Case) -> bool:
    """Whether a case can be edited: its subject has tokens, and there is room for a prefix."""
    try:
        check_facts(task.base.tokenizer, [case], task.base.max_positions)
    except InvalidFacts:
        return False
    return True


def _with_text(row: Row, texts: Mapping[str, Row]) -> Row:
    text = texts.get(row["id"], {})
    return row | {name: text[name] for name in ("fluency", "text") if name in text}


def _scores(row: Row) -> Row:
    """The part of a record needed by comparisons, without its prompts and texts."""
    return {name: value for name, value in row.items() if name not in ("prompts", "text")}


def _suite(task: Task, payload: EvaluationPayload) -> Suite:
    if payload.suite in atlas.SUITES:
        return load_suite(payload.suite)
    suites = task.store.suites
    info = suites.get(payload.suite)
    if info.sha256 != payload.suite_sha256:
        raise Refused(
            "suite_changed",
            f"{payload.suite} is not the suite it was when this was submitted: submit it again",
        )
    path = suites.path(payload.suite)
    return load_suite(path, info.format, drop_bad=True, name=info.name, style=info.style)


def _chosen(task: Task, payload: EvaluationPayload) -> Chosen | None:
    """The hyper-parameters of a trial; None for an evaluation of versions."""
    if payload.editor is None:
        return None
    if payload.hparams == AUTO:
        monitor, changes = task.control.monitor, payload.changes
        return automatic_hparams(task.store, task.base, payload.editor, changes, monitor)[0]
    cls = hparams_class(payload.editor)
    given = validate_hparams(cls, payload.hparams, task.base.n_layers)
    return Chosen(given, "given" if payload.preset is None else "preset")


def _moments_from(task: Task, hparams: EditorHParams | None) -> str | None:
    """Where the second moments of a trial come from; None if it needs none."""
    if hparams is None or not hparams.moment_layers:
        return None
    settings = task.settings
    return origin_of(task.base.name, settings.corpus, settings.moments)


def _trials(task: Task, evaluation: _Evaluation, hparams: EditorHParams) -> Trials:
    """The cases of all trials, with their optimised values stored in the work folder."""
    payload = evaluation.payload
    moments = task.moments.for_user() if hparams.moment_layers else task.moments.for_none()
    most = max(target.n_edits or 0 for target in payload.targets)

    return Trials(
        task.base,
        evaluation.edited[:most],
        moments,
        kept_prefixes(task.store, task.base, hparams.prefix_count),
        monitor=task.control.monitor,
        hypernetworks=task.store.base.networks_folder,
        cache=ValueCache(task.work),
    )


def _interval(found: Interval) -> MetricInterval:
    return MetricInterval(**asdict(found))
