"""``jeep evaluate``, and ``jeep evaluations``: measurements of versions and editors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from jeep_core.evaluation.metric_names import FREE, in_words, of_group
from jeep_core.text.counting import counted
from service.cli import figures, tables
from service.cli.common import (
    AsJson,
    HParams,
    Preset,
    Url,
    connected,
    err,
    finish,
    hparams_given,
    said_only,
    show,
    show_list,
)
from service.cli.groups import group as new_group
from service.cli.listing import Listing
from service.cli.reading import counts

if TYPE_CHECKING:
    from service.contracts.schemas import Evaluation, EvaluationComparison, MetricInterval
    from service.contracts.schemas.evaluation import (
        EvaluationResult,
        HarnessRecord,
    )

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
    free: Annotated[bool, typer.Option("--free", help="Judge free answers, too.")] = False,
    free_tokens: Annotated[
        int | None, typer.Option(help="Of a free answer at most; default: 32.")
    ] = None,
    judge: Annotated[bool, typer.Option("--judge", help="Ask a judge model, too.")] = False,
    judge_model: Annotated[str | None, typer.Option(help="Its name.")] = None,
    judge_address: Annotated[str | None, typer.Option(help="Its server, with /v1.")] = None,
    cases: Annotated[Path | None, typer.Option(help="Write the case records here.")] = None,
    compare: Annotated[bool, typer.Option(help="Show what got better and what broke.")] = False,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Measure versions, or try an editor.

    An editor is tried on cases of the suite, without writing a version.  A suite lm-eval:NAME is
    a task of lm-eval: what the model could do before an edit, and can do after it.

    --free also judges answers that are written freely, --judge has a model of JEEP_JUDGE_ADDRESS
    judge them, too; an option of one of them implies it.
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
            free=_free(free, free_tokens, judge, judge_model, judge_address),
        )
        found: Evaluation = finish(
            client, job.id, as_json, _figures_alone, lambda _: client.evaluation(job.resource_id)
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
        show_list(list(client.evaluations()), as_json, tables.evaluations)


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


def _free(
    free: bool, tokens: int | None, judge: bool, model: str | None, address: str | None
) -> dict[str, Any] | None:
    """The field ``free`` of a request; None unless an option asks for it."""
    asked = said_only({"max_new_tokens": tokens})
    who = said_only({"model": model, "address": address})
    if judge or who:
        asked["judge"] = who
    return asked if free or asked else None


def _figures_alone(answer: Evaluation) -> RenderableType:
    """Figures without their definitions, and where these are."""
    more = f"How each figure is asked and judged: jeep evaluations show {answer.id}"
    figures = evaluation_table(answer, defined=False)
    return figures if answer.result is None else Group(figures, Text(more, style="dim"))


def evaluation_table(answer: Evaluation, defined: bool = True) -> RenderableType:
    """Figures with their 95 % intervals; ``defined``: with how each is asked and judged."""
    if answer.result is None:
        return tables.without_result(answer)
    result = answer.result
    protocols = figures.how(result.protocols, COLUMNS) if defined else []
    if defined and result.suite_sha256:
        said = f"SHA-256 of {result.suite}: {result.suite_sha256}"
        protocols.append(Text(said, style="dim"))
    head = f"{answer.id}: {answer.suite}, seed {result.seed}"
    if result.lm_eval is not None:
        how = Text(_how(result.lm_eval))
        return Group(Text(head, style="bold"), _tasks_table(result), how, *protocols)
    present = [n for n in COLUMNS if any(n in point.metrics for point in result.points)]
    table = Listing("target", "cases", *(COLUMNS[name] for name in present), "perplexity")
    for point in result.points:
        cells = [_figure(point.metrics.get(name)) for name in present]
        perplexity = "" if point.perplexity is None else f"{point.perplexity:.2f}"
        table.add_row(*map(Text, (point.label, str(point.cases), *cells, perplexity)))
    parts: list[RenderableType] = [Text(head, style="bold"), table]
    if any(name.startswith("free_") for point in result.points for name in point.metrics):
        parts.append(_free_table(result))
    if any("/" in name for point in result.points for name in point.metrics):
        parts.append(_group_table(result))
    if result.judge is not None:
        asked = f"{result.judge.model} at {result.judge.address}"
        unclear = f"{result.judge.unclear} of {counted(result.judge.answers, 'answer')}"
        parts.append(Text(f"judge: {asked}; neither yes nor no: {unclear}"))
    if result.skipped:
        parts.append(Text(f"not asked: {counts(result.skipped)}"))
    return Group(*parts, *protocols)


def _free_table(result: EvaluationResult) -> Listing:
    """Free answers: a row for each kind of prompt and rule, a column for each target."""
    table = Listing("written freely", "judged by", *(point.label for point in result.points))
    for name, (kind, rule) in FREE.items():
        cells = [_figure(point.metrics.get(name)) for point in result.points]
        if any(cells):
            table.add_row(*map(Text, (kind, rule, *cells)))
    return table


def _group_table(result: EvaluationResult) -> Listing:
    """Questions about what follows, by group: a row for each, a column for each target."""
    names = list(dict.fromkeys(name for point in result.points for name in point.metrics))
    table = Listing("what follows", "judged by", *(point.label for point in result.points))
    for name in names:
        if (found := of_group(name)) is not None:
            cells = [_figure(point.metrics.get(name)) for point in result.points]
            table.add_row(*map(Text, (*found, *cells)))
    return table


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
    known = [name for name in (*COLUMNS, *FREE) if name in answer.differences]
    for name in (*known, *(name for name in answer.differences if "/" in name)):
        shown = COLUMNS.get(name) or in_words(name)
        differences.add_row(Text(shown), Text(_figure(answer.differences[name])))
    cases = Listing("", "case", "prompt", "changes")
    for mark, changes in (("better", answer.better), ("broken", answer.broken)):
        for change in changes:
            said = ", ".join(f"{n} {a:g} → {b:g}" for n, (a, b) in change.metrics.items())
            cases.add_row(*map(Text, (mark, change.id, change.prompt, said)))
    notes = [Text(f"Note: {note}.") for note in answer.notes]
    return Group(differences, cases, *notes, *figures.how(answer.protocols, COLUMNS))


def _figure(found: MetricInterval | None) -> str:
    if found is None:
        return ""
    digits = 1 if abs(found.high) > 1.5 or abs(found.low) > 1.5 else 3
    return f"{found.value:.{digits}f} ({found.low:.{digits}f} to {found.high:.{digits}f})"
