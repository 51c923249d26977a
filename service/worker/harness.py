"""Evaluations whose suite is a task of lm-eval: the answers of every version, and their comparison.

Answers are kept in the job's work folder as they come, so a job whose worker died asks only for
those that are missing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

from jeep_core.evaluation.harness.answers import Answers
from jeep_core.evaluation.harness.catalogue import TaskSet, find
from jeep_core.evaluation.harness.installed import installed_version
from jeep_core.evaluation.harness.intervals import difference, interval, is_share
from jeep_core.evaluation.harness.tasks import Metric, Outcome, Tasks, ask, load_tasks
from jeep_core.evaluation.statistics import Interval
from jeep_core.models.giving_way import giving_way
from jeep_core.text.counting import counted
from service.contracts.schemas.base import MetricProtocol
from service.contracts.schemas.evaluation import (
    COMPARISONS_FILE,
    CaseChange,
    EvaluationComparison,
    EvaluationPayload,
    EvaluationPoint,
    EvaluationResult,
    HarnessRecord,
    HarnessTask,
    MetricInterval,
    Target,
    cases_file,
)
from service.worker.failures import Refused
from service.worker.lanes.read_lane import Task
from service.worker.partial_results import Records, write_lines

STYLE = "lm-eval"
CHANGES = 1000
"""Documents that a comparison lists at most, on either side."""


def run_tasks(task: Task, payload: EvaluationPayload) -> EvaluationResult:
    """Have every target answer the tasks.

    Raises:
        Refused: a file of a task has changed since this was submitted.
        NoHarness, UnknownTask, InvalidTask: the tasks cannot be run.
        NumericalError: a figure is not finite.
        Whatever the task's control raises.
    """
    chosen = find(payload.suite, task.settings.lm_eval_tasks)
    if chosen.sha256 != payload.suite_sha256:
        message = f"{payload.suite} has changed since this was submitted: submit it again"
        raise Refused("suite_changed", message)
    task.control.pause()
    tables = task.work / "tables"
    tasks = load_tasks(chosen.tasks, tables, payload.limit, payload.seed)
    answered: list[list[Outcome]] = []
    points = []
    for number, target in enumerate(payload.targets):
        began = time.monotonic()
        answers, outcomes = _answered(task, payload, tasks, number, target)
        write_lines(task.reports / cases_file(number), _rows(target, outcomes))
        answered.append(outcomes)
        point = EvaluationPoint(
            label=target.label,
            version=target.version,
            cases=sum(len(outcome.documents) for outcome in outcomes),
            metrics={
                _named(outcome, metric): _shown(interval(metric, payload.seed))
                for outcome in outcomes
                for metric in outcome.metrics
            },
            seconds=round(time.monotonic() - began, 3),
        )
        points.append(point)
    _write_comparisons(task, payload, answered)
    return EvaluationResult(
        evaluation_id=payload.evaluation_id,
        suite=payload.suite,
        suite_sha256=chosen.sha256,
        style=STYLE,
        seed=payload.seed,
        points=points,
        lm_eval=_record(chosen, tasks, answers),
        protocols=_protocols(payload, tasks, answered),
    )


def _answered(
    task: Task, payload: EvaluationPayload, tasks: Tasks, number: int, target: Target
) -> tuple[Answers, list[Outcome]]:
    view = task.view(str(target.version))
    kept = Records(task.work / f"answers-{number}.jsonl")
    answers = Answers(view, kept, task.control.monitor, payload.seed)
    with giving_way(view, task.control.monitor):
        return answers, ask(tasks, answers, chat=payload.ask == "chat")


def _record(chosen: TaskSet, tasks: Tasks, answers: Answers) -> HarnessRecord:
    """How the figures came about: with this they can be had again from lm-eval's command."""
    shots, documents = tasks.shots, tasks.documents
    return HarnessRecord(
        version=installed_version() or "",
        tokenizer=answers.tokenizer_name,
        opening=answers.opening,
        prefix=answers.prefix_text,
        max_length=answers.max_length,
        tasks=[
            HarnessTask(
                name=one.name,
                file=one.file,
                bundled=one.bundled,
                kind=one.kind,
                documents=documents[one.name],
                num_fewshot=shots[one.name],
                sha256=one.sha256(),
            )
            for one in chosen.tasks
        ],
    )


def _protocols(
    payload: EvaluationPayload, tasks: Tasks, answered: Sequence[Sequence[Outcome]]
) -> dict[str, MetricProtocol]:
    """How every figure came about, and whose it can be compared with."""
    version, found = installed_version() or "", {}
    how = "in the chat format" if payload.ask == "chat" else "as plain text"
    for outcome in (one for some in answered for one in some):
        shots, documents = tasks.shots[outcome.task], tasks.documents[outcome.task]
        for metric in outcome.metrics:
            found[_named(outcome, metric)] = MetricProtocol(
                asked=f"{counted(documents, 'document')} of {outcome.task}, {shots}-shot",
                how=f"documents of lm-eval's tasks, {how}",
                judged=f"{metric.name} by lm-eval {version}, in its own units",
                comparable="figures of lm-eval's command with the same task file, documents, "
                "examples and tokens at the start of a text (`lm_eval` of this result)",
            )
    return found


def _rows(target: Target, outcomes: Sequence[Outcome]) -> Iterator[dict[str, Any]]:
    """One record for each document of each task."""
    for outcome in outcomes:
        for place, document in enumerate(outcome.documents):
            values = ((metric, metric.items[place]) for metric in outcome.metrics)
            yield {
                "target": target.label,
                "id": f"{outcome.task}/{outcome.ids[place]}",
                "prompt": _prompt(document),
                "expected": document["target"],
                "answers": document["filtered_resps"],
                "metrics": {
                    _named(outcome, metric): _plain(item)
                    for metric, item in values
                    if item is not None
                },
            }


def _write_comparisons(
    task: Task, payload: EvaluationPayload, answered: Sequence[Sequence[Outcome]]
) -> None:
    """Write the comparison of every pair of targets, the earlier one first."""
    found = []
    for (i, a), (j, b) in combinations(enumerate(payload.targets), 2):
        task.control.pause()
        one = _comparison(a.label, b.label, answered[i], answered[j], payload.seed)
        found.append(one.model_dump(mode="json"))
    write_lines(task.reports / COMPARISONS_FILE, found)


def _comparison(
    a: str, b: str, before: Sequence[Outcome], after: Sequence[Outcome], seed: int
) -> EvaluationComparison:
    pairs = list(zip(before, after, strict=True))
    differences = {
        _named(new, second): _shown(difference(first, second, seed))
        for old, new in pairs
        for first, second in _metrics(old, new)
    }
    return EvaluationComparison(
        a=a,
        b=b,
        cases=sum(len(outcome.documents) for outcome in after),
        differences=differences,
        better=[one for old, new in pairs for one in _changes(old, new, 1)][:CHANGES],
        broken=[one for old, new in pairs for one in _changes(old, new, -1)][:CHANGES],
    )


def _metrics(old: Outcome, new: Outcome) -> Iterator[tuple[Metric, Metric]]:
    """The metrics that both have."""
    known = {metric.name: metric for metric in old.metrics}
    for metric in new.metrics:
        if metric.name in known:
            yield known[metric.name], metric


def _changes(old: Outcome, new: Outcome, sign: int) -> Iterator[CaseChange]:
    """Documents that got better (``sign`` 1) or worse (-1) by a metric that is a mean."""
    shares = [pair for pair in _metrics(old, new) if is_share(pair[0]) and is_share(pair[1])]
    for place, document in enumerate(new.documents):
        changed = {}
        for first, second in shares:
            x, y = first.items[place], second.items[place]
            if x is None or y is None:
                continue
            gain = float(y) - float(x)
            if (gain if second.higher_is_better else -gain) * sign > 0:
                changed[_named(new, second)] = (float(x), float(y))
        if changed:
            name = f"{new.task}/{new.ids[place]}"
            yield CaseChange(id=name, prompt=_prompt(document), metrics=changed)


def _prompt(document: Any) -> str:
    """The context of a document's first request; a text without one is its own."""
    first, *_ = document["arguments"][0]
    return str(first)


def _named(outcome: Outcome, metric: Metric) -> str:
    return f"{outcome.task}/{metric.name}"


def _plain(item: Any) -> Any:
    """A value without numpy's types; a tuple as a list."""
    if isinstance(item, list | tuple):
        return [_plain(one) for one in item]
    if isinstance(item, dict):
        return {str(key): _plain(one) for key, one in item.items()}
    if hasattr(item, "tolist"):
        return item.tolist()
    return item if isinstance(item, str | bool | int | float) or item is None else str(item)


def _shown(found: Interval) -> MetricInterval:
    return MetricInterval(**asdict(found))
