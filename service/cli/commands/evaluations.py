"""``jeep evaluate``, and ``jeep evaluations``: measurements of versions and editors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from jeep_core.text.counting import counted
from service.cli import tables
from service.cli.common import (
    AsJson,
    HParams,
    Preset,
    Url,
    connected,
    err,
    finish,
    hparams_given,
    show,
    show_records,
)
from service.cli.groups import group as new_group
from service.cli.listing import Listing
from service.cli.reading import counts

if TYPE_CHECKING:
    from service.contracts.schemas import Evaluation, EvaluationComparison, MetricInterval
    from service.contracts.schemas.evaluation import EvaluationResult, HarnessRecord

EvaluationId = Annotated[str, typer.Argument(help="As jeep evaluations list shows it.")]

COLUMNS = {
    "score": "Score",
    "efficacy": "ES",
    "generalization": "GS",
    "locality": "LS",
    "greedy": "writes it",
    "margin": "margin",
    "portability": "portability",
    "fluency": "fluency",
}

group = new_group(
    "Measurements: list, show, compare.", lists=True, epilog="jeep evaluate SUITE makes one."
)


def evaluate(
    suite: Annotated[str, typer.Argument(help="As in jeep suites list, or jeep suites tasks.")],
    version: Annotated[list[str] | None, typer.Option(help="Repeat to compare.")] = None,
    editor: Annotated[str | None, typer.Option(help="Try this editor instead.")] = None,
    n_edits: Annotated[list[int] | None, typer.Option(help="Edits together; repeatable.")] = None,
    preset: Preset = None,
    hparams: HParams = None,
    chat: Annotated[bool, typer.Option("--chat", help="Ask through the chat template.")] = False,
    limit: Annotated[int | None, typer.Option(help="Cases drawn; default: all.")] = None,
    seed: Annotated[int | None, typer.Option(help="Draws the cases.")] = None,
    fluency_texts: Annotated[int | None, typer.Option(help="Texts per version.")] = None,
    cases: Annotated[Path | None, typer.Option(help="Write the case records here.")] = None,
    compare: Annotated[bool, typer.Option(help="Show what got better and what broke.")] = False,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Measure versions, or try an editor.

    An editor is tried on cases of the suite, without writing a version.  A suite lm-eval:NAME is
    a task of lm-eval: what the model could do before an edit, and can do after it.
    """
    with connected(url) as client:
        job = client.evaluate(
            suite,
            version,
            editor=editor,
            n_edits=n_edits or None,
            preset=preset,
            hparams=hparams_given(hparams),
            ask="chat" if chat else None,
            limit=limit,
            seed=seed,
            fluency_texts=fluency_texts,
        )
        found: Evaluation = finish(
            client, job.id, as_json, evaluation_table, lambda _: client.evaluation(job.resource_id)
        )
        if cases is not None:
            size = client.evaluation_cases(found.id, cases)
            err.print(f"{cases}: {size:,} bytes", markup=False)
        if compare and len(found.targets) > 1:
            a, b = found.targets[0].label, found.targets[-1].label
            show(client.compare(found.id, a, b), as_json, comparison_table)


@group.command("list")
def list_evaluations(as_json: AsJson = False, url: Url = None) -> None:
    """List the evaluations, newest first."""
    with connected(url) as client:
        show_records(list(client.evaluations()), as_json, tables.evaluations)


@group.command("show")
def show_evaluation(evaluation_id: EvaluationId, as_json: AsJson = False, url: Url = None) -> None:
    """Show the figures of an evaluation with their intervals."""
    with connected(url) as client:
        show(client.evaluation(evaluation_id), as_json, evaluation_table)


@group.command("cases")
def write_cases(
    evaluation_id: EvaluationId,
    file: Annotated[Path, typer.Argument(help="The file of JSON lines to write.")],
    target: Annotated[str | None, typer.Option(help="Of this version or editor only.")] = None,
    url: Url = None,
) -> None:
    """Write the record of every case to a file."""
    with connected(url) as client:
        size = client.evaluation_cases(evaluation_id, file, target)
        err.print(f"{file}: {size:,} bytes", markup=False)


@group.command("compare")
def compare(
    evaluation_id: EvaluationId,
    a: Annotated[str, typer.Argument(help="A version or editor that was measured.")],
    b: Annotated[str, typer.Argument(help="The one to compare with it.")],
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Show what got better and what broke in B against A, case by case."""
    with connected(url) as client:
        show(client.compare(evaluation_id, a, b), as_json, comparison_table)


def evaluation_table(answer: Evaluation) -> RenderableType:
    """Figures with their 95 % intervals."""
    if answer.result is None:
        return tables.without_result(answer)
    result = answer.result
    head = f"{answer.id}: {answer.suite}, seed {result.seed}"
    if result.lm_eval is not None:
        return Group(Text(head, style="bold"), _tasks_table(result), Text(_how(result.lm_eval)))
    present = [n for n in COLUMNS if any(n in point.metrics for point in result.points)]
    table = Listing("target", "cases", *(COLUMNS[name] for name in present), "perplexity")
    for point in result.points:
        cells = [_figure(point.metrics.get(name)) for name in present]
        perplexity = "" if point.perplexity is None else f"{point.perplexity:.2f}"
        table.add_row(*map(Text, (point.label, str(point.cases), *cells, perplexity)))
    skipped = f"not asked: {counts(result.skipped)}" if result.skipped else ""
    return Group(Text(head, style="bold"), table, *([Text(skipped)] if skipped else []))


def _tasks_table(result: EvaluationResult) -> Listing:
    """Tasks of lm-eval: a row for each metric, a column for each version."""
    names = list(dict.fromkeys(name for point in result.points for name in point.metrics))
    table = Listing("task", "metric", *(point.label for point in result.points))
    for name in names:
        task, _, metric = name.partition("/")
        cells = [_figure(point.metrics.get(name)) for point in result.points]
        table.add_row(*map(Text, (task, metric, *cells)))
    return table


def _how(found: HarnessRecord) -> str:
    """How figures of lm-eval came about, in one line."""
    asked = ", ".join(
        f"{task.name} {counted(task.documents, 'document')} {task.num_fewshot}-shot"
        for task in found.tasks
    )
    bos = f"{found.opening} before every text" if found.opening else "no BOS before a text"
    return f"lm-eval {found.version}; {asked}; {bos}; windows of {found.max_length} tokens"


def comparison_table(answer: EvaluationComparison) -> RenderableType:
    """A table of the cases that got better or worse."""
    differences = Listing("metric", f"{answer.b} - {answer.a}")
    known = [name for name in COLUMNS if name in answer.differences]
    for name in (*known, *(name for name in answer.differences if "/" in name)):
        differences.add_row(Text(COLUMNS.get(name, name)), Text(_figure(answer.differences[name])))
    cases = Listing("", "case", "prompt", "changes")
    for mark, changes in (("better", answer.better), ("broken", answer.broken)):
        for change in changes:
            said = ", ".join(f"{n} {a:g} → {b:g}" for n, (a, b) in change.metrics.items())
            cases.add_row(*map(Text, (mark, change.id, change.prompt, said)))
    return Group(differences, cases)


def _figure(found: MetricInterval | None) -> str:
    if found is None:
        return ""
    digits = 1 if abs(found.high) > 1.5 or abs(found.low) > 1.5 else 3
    return f"{found.value:.{digits}f} ({found.low:.{digits}f} to {found.high:.{digits}f})"
