"""Evaluation jobs: existing versions, or trials that edit a view and discard it.

Case records are stored in the job's work folder by chunk, optimised values of a trial by fact
block, so that a job whose worker died continues where it was.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from jeep_core.evaluation.fluency import n_gram_entropy, written
from jeep_core.evaluation.harness.catalogue import is_task
from jeep_core.evaluation.metrics import CaseRecord, fitting
from jeep_core.evaluation.perplexity import perplexity, text_path
from jeep_core.evaluation.protocols import Setting, protocols
from jeep_core.evaluation.statistics import Interval, compare, summarise_cases
from jeep_core.evaluation.trials import Trials
from jeep_core.evaluation.units import measure_apart
from jeep_core.models.giving_way import giving_way
from jeep_core.models.loading import texts_of
from jeep_core.models.views import ModelView
from jeep_core.probe.defaults.from_record import Chosen
from jeep_core.spec.hparams import EditorHParams
from jeep_core.suites import Case, Style
from jeep_core.text.counting import counted
from jeep_core.values.anchor import anchor_warnings
from service.contracts.schemas.base import MetricProtocol
from service.contracts.schemas.evaluation import (
    COMPARISONS_FILE,
    CaseChange,
    EvaluationComparison,
    EvaluationPayload,
    EvaluationPoint,
    EvaluationResult,
    HeldOutText,
    MetricInterval,
    Target,
    cases_file,
)
from service.store import CorruptFile
from service.store.files import encode, read, replace, sha256_of
from service.worker.evaluating.free import PHASE as FREE_PHASE
from service.worker.evaluating.free import FreeAnswers
from service.worker.evaluating.inputs import (
    asked_cases,
    chosen_hparams,
    drawn,
    is_editable,
    moments_from,
    suite_of,
    trials_of,
)
from service.worker.evaluating.judge import Judge
from service.worker.failures import Refused
from service.worker.harness import run_tasks
from service.worker.lanes.read_lane import Task
from service.worker.partial_results import Records, of_layout, write_lines

log = logging.getLogger(__name__)
LAYOUT = 3
"""Of the rows that are kept; raised whenever later ones hold what earlier ones lack."""
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
    suite = suite_of(task, payload)
    plain = {case.id: case for case in suite.cases}
    asked = asked_cases(task, payload, suite)
    fit, skipped, left_out = fitting(task.base, asked, suite.style)
    skipped["refused_by_template"] += len(plain) - len(asked)
    if payload.editor is not None:
        usable = [case for case in fit if is_editable(task, plain[case.id])]
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
    of_layout(task.work, LAYOUT)
    edited = [plain[case.id] for case in cases]
    chosen = chosen_hparams(task, payload)
    hparams = None if chosen is None else chosen.hparams
    free = _free_answers(task, payload)
    evaluation = _Evaluation(task, payload, suite.style, cases, edited, hparams, free)
    points = evaluation.points()
    evaluation.write_comparisons()
    return EvaluationResult(
        evaluation_id=payload.evaluation_id,
        suite=payload.suite,
        suite_sha256=payload.suite_sha256,
        style=suite.style,
        seed=payload.seed,
        skipped=dict(+skipped),
        left_out=dict(left_out),
        points=points,
        hparams=None if hparams is None else hparams.model_dump(mode="json"),
        source=None if chosen is None else chosen.source,
        rule=None if chosen is None else chosen.rule,
        moments=moments_from(task, hparams),
        warnings=_warnings(chosen, points),
        protocols=_protocols(payload, suite.style, points),
        judge=None if free is None else free.judge_record(len(points)),
    )


@dataclass
class _Evaluation:
    """A running job: ``cases`` as they are asked, and as a trial edits them."""

    task: Task
    payload: EvaluationPayload
    style: Style
    cases: list[Case]
    edited: list[Case]
    hparams: EditorHParams | None = None
    free: FreeAnswers | None = None
    _done: int = 0
    _total: int = 0
    _rows: list[list[Row]] = field(default_factory=list)

    def points(self) -> list[EvaluationPoint]:
        trials = None
        if self.hparams is not None:
            trials = trials_of(self.task, self.payload, self.edited, self.hparams)
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
        free = [] if self.free is None else list(self.free.records(number).read())
        if self.free is not None and len(free) != point.cases:
            return None
        self._keep(number, _joined(rows, texts, free))
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
        view, warnings = self._view(target, trials)
        with giving_way(view, self.task.control.monitor):
            rows = self._measured(number, target, view, cases)
            texts = self._texts(number, view, cases)
            free = self._free(number, view, cases)
            held, text = self._perplexity(view)
        rows = _joined(rows, texts, free)
        self._keep(number, rows)
        metrics = summarise_cases(rows, self.payload.seed)
        return EvaluationPoint(
            label=target.label,
            version=target.version,
            n_edits=target.n_edits,
            cases=len(rows),
            metrics={name: _interval(value) for name, value in metrics.items()},
            perplexity=held,
            perplexity_text=text,
            seconds=round(time.monotonic() - began, 3),
            warnings=warnings,
        )

    def _view(self, target: Target, trials: Trials | None) -> tuple[ModelView, list[str]]:
        """A target's view, and what is to be known about its edit."""
        if target.version is not None:
            return self.task.view(target.version), []
        if trials is None or self.hparams is None or not target.n_edits:
            return ModelView(self.task.base), []
        self.task.control.pause()
        numbers = range(target.n_edits)
        view, outcome = trials.edit(str(self.payload.editor), self.hparams, numbers)
        return view, list(anchor_warnings(outcome.values))

    def _measured(
        self, number: int, target: Target, view: ModelView, cases: Sequence[Case]
    ) -> list[Row]:
        """The rows of all cases; those already measured by an earlier attempt are read."""
        kept = self._records("cases", number)
        rows = list(kept.read())
        before = self._done + len(rows)

        def keep(unit: int, records: Sequence[CaseRecord]) -> None:
            found = [{"target": target.label, **record.as_json()} for record in records]
            kept.append(found)
            rows.extend(found)

        def report(phase: str, done: int, total: int) -> None:
            self._say(phase, before + done, self._total)

        measure_apart(
            view,
            cases[len(rows) :],
            self.style,
            executor=self.task.executor,
            monitor=self.task.control.monitor.reporting(report),
            keep=keep,
        )
        self._done += len(cases)
        return rows

    def _say(self, phase: str, done: int, total: int) -> None:
        self.task.control.progress(phase, done, total)

    def _texts(self, number: int, view: ModelView, cases: Sequence[Case]) -> list[Row]:
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
        return rows

    def _free(self, number: int, view: ModelView, cases: Sequence[Case]) -> list[Row]:
        """Free answers with their scores, if they were asked for."""
        if self.free is None:
            return []

        def say(done: int) -> None:
            self._say(FREE_PHASE, done, len(cases))

        return self.free.rows(number, view, cases, say)

    def _perplexity(self, view: ModelView) -> tuple[float, HeldOutText] | tuple[None, None]:
        """Perplexity on the configured text, or that of the bundled models; None without a text."""
        settings = self.task.settings
        path = text_path(self.task.base.name, settings.perplexity_text)
        if path is None:
            return None, None
        tokens = settings.perplexity_tokens
        text = HeldOutText(name=path.name, sha256=sha256_of(path), tokens=tokens)
        monitor = self.task.control.monitor
        return perplexity(view, texts_of(path), max_tokens=tokens, monitor=monitor), text

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


def _joined(rows: Sequence[Row], *more: Sequence[Row]) -> list[Row]:
    """The records of cases with what else was measured on some of them, by the case's id."""
    found = [{row["id"]: row for row in part} for part in more]
    return [{**row, **{k: v for part in found for k, v in part.get(row["id"], {}).items()}}
            for row in rows]  # fmt: skip


def _warnings(chosen: Chosen | None, points: Sequence[EvaluationPoint]) -> list[str]:
    """Warnings about the hyper-parameters of a trial, and about the edit of each n."""
    said = [f"{point.label}: {text}" for point in points for text in point.warnings]
    return [*(() if chosen is None else chosen.warnings), *said]


def _free_answers(task: Task, payload: EvaluationPayload) -> FreeAnswers | None:
    """The judgement of free answers; None where it was not asked for."""
    if payload.free is None:
        return None
    judge = None
    if payload.free.judge is not None:
        control = task.control
        judge = Judge(payload.free.judge, task.settings, control.pause, control.checkpoint)
    return FreeAnswers(task, payload.free, judge)


def _protocols(
    payload: EvaluationPayload, style: Style, points: Sequence[EvaluationPoint]
) -> dict[str, MetricProtocol]:
    """How every figure of the result came about."""
    names = dict.fromkeys(name for point in points for name in point.metrics)
    if any(point.perplexity is not None for point in points):
        names["perplexity"] = None
    judge = payload.free.judge if payload.free else None
    tokens = payload.free.max_new_tokens if payload.free else 0
    setting = Setting(
        payload.suite, style, payload.ask, tokens,
        judge=judge.model if judge else None, held_out=_held_out(points),
    )  # fmt: skip
    found = protocols(names, setting)
    return {name: MetricProtocol(**asdict(one)) for name, one in found.items()}


def _held_out(points: Sequence[EvaluationPoint]) -> str:
    """The text for perplexity in words; an earlier attempt may have read another one."""
    of: dict[str, list[str]] = {}
    for point in points:
        if (text := point.perplexity_text) is not None:
            said = f"the first {counted(text.tokens, 'token')} of {text.name}"
            of.setdefault(f"{said} (SHA-256 {text.sha256[:12]}…)", []).append(point.label)
    if len(of) < 2:
        return "".join(of)
    return "; ".join(f"for {', '.join(labels)} {text}" for text, labels in of.items())


def _scores(row: Row) -> Row:
    """The part of a record needed by comparisons, without its prompts and texts."""
    return {name: value for name, value in row.items() if name not in ("prompts", "text", "free")}


def _interval(found: Interval) -> MetricInterval:
    return MetricInterval(**asdict(found))
