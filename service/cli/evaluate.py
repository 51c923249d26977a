"""``jeep suites`` and ``jeep evaluate``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from jeep_core.errors import JeepError
from jeep_core.suites import hub_file
from jeep_core.suites.hub import SCHEME
from service.cli.common import (
    EXIT_FAILED,
    AsJson,
    CommandGroup,
    Url,
    app,
    complain,
    connected,
    err,
    follow,
    parse_json,
    show,
    show_list,
)
from service.cli.reading import counts, loss_lines
from service.contracts.jobs import JobStatus
from service.contracts.schemas.evaluation import (
    Evaluation,
    EvaluationComparison,
    MetricInterval,
    SuiteInfo,
)

suites_app = CommandGroup(invoke_without_command=True, help="List suites, or add one.")
app.add_typer(suites_app, name="suites")

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


@suites_app.callback()
def suites_command(context: typer.Context, as_json: AsJson = False, url: Url = None) -> None:
    """List the suites."""
    if context.invoked_subcommand is None:
        with connected(url) as client:
            show_list(client.suites(), as_json, suites_table)


@suites_app.command("add")
def add_command(
    name: Annotated[str, typer.Argument(help="What evaluations will call it.")],
    source: Annotated[str, typer.Argument(help="File, or hub:owner/name/path/to/file.")],
    format: Annotated[str | None, typer.Option(help="Default: seen from the records.")] = None,
    drop_bad: Annotated[bool, typer.Option(help="Leave out and count bad records.")] = False,
    style: Annotated[str | None, typer.Option(help="Judged by contrast, accuracy, auto.")] = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Upload a suite, in any format of docs/suites.md: JSON, JSON lines or CSV."""
    try:
        path = hub_file(source) if source.startswith(SCHEME) else Path(source)
        path.open("rb").close()
    except (JeepError, OSError) as error:
        complain(f"jeep: {error}")
        raise typer.Exit(EXIT_FAILED) from None
    with connected(url) as client:
        found = client.add_suite(name, path, format, drop_bad, style)
        show(found, as_json, suite_added)


@app.command("evaluate")
def evaluate_command(
    suite: Annotated[str, typer.Argument(help="Name of a suite, as in jeep suites.")],
    version: Annotated[list[str] | None, typer.Option(help="Repeat to compare.")] = None,
    editor: Annotated[str | None, typer.Option(help="Try this editor instead.")] = None,
    n_edits: Annotated[list[int] | None, typer.Option(help="Edits together; repeatable.")] = None,
    preset: Annotated[str | None, typer.Option(help="Named hyper-parameters.")] = None,
    hparams: Annotated[str | None, typer.Option(help="JSON laid over the preset.")] = None,
    limit: Annotated[int | None, typer.Option(help="Cases drawn; default: all.")] = None,
    seed: Annotated[int | None, typer.Option()] = None,
    fluency_texts: Annotated[int | None, typer.Option(help="Texts per version.")] = None,
    cases: Annotated[Path | None, typer.Option(help="Write the case records here.")] = None,
    compare: Annotated[bool, typer.Option(help="Show what got better and what broke.")] = False,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Measure versions on a suite, or try an editor without writing a version."""
    with connected(url) as client:
        job = client.evaluate(
            suite,
            version,
            editor=editor,
            n_edits=n_edits or None,
            preset=preset,
            hparams=parse_json(hparams, "--hparams") if hparams else None,
            limit=limit,
            seed=seed,
            fluency_texts=fluency_texts,
        )
        done = follow(client, job.id, quiet=as_json)
        found = client.evaluation(str(job.evaluation_id))
        show(found, as_json, evaluation_table)
        if done.status is not JobStatus.SUCCEEDED:
            raise typer.Exit(EXIT_FAILED)
        if cases is not None:
            size = client.evaluation_cases(found.id, cases)
            err.print(f"{cases}: {size:,} bytes", markup=False)
        if compare and len(found.targets) > 1:
            a, b = found.targets[0].label, found.targets[-1].label
            show(client.compare(found.id, a, b), as_json, comparison_table)


def suites_table(answers: Sequence[SuiteInfo]) -> RenderableType:
    """The suites with what was left out of them."""
    table = _table("name", "format", "judged by", "cases", "dropped", "left out", "sha256")
    for one in answers:
        dropped, left_out = counts(one.dropped), counts(one.left_out)
        cells = (one.name, one.format, one.style, one.cases, dropped, left_out, one.sha256[:12])
        table.add_row(*(Text(str(cell)) for cell in cells))
    return table


def suite_added(answer: SuiteInfo) -> RenderableType:
    """A suite with its prompts by kind, and the first records or parts left out."""
    kinds = f"{answer.records} records; {counts(answer.prompts)}"
    return Group(suites_table([answer]), Text(kinds), *loss_lines(answer))


def evaluation_table(answer: Evaluation) -> RenderableType:
    """Figures with their 95 % intervals."""
    if answer.result is None:
        why = f": {answer.error.code}: {answer.error.message}" if answer.error else ""
        return Text(f"{answer.id} {answer.status.value}{why}", style="red")
    result = answer.result
    present = [n for n in COLUMNS if any(n in point.metrics for point in result.points)]
    table = _table("target", "cases", *(COLUMNS[name] for name in present), "perplexity")
    for point in result.points:
        cells = [_figure(point.metrics.get(name)) for name in present]
        perplexity = "" if point.perplexity is None else f"{point.perplexity:.2f}"
        table.add_row(*map(Text, (point.label, str(point.cases), *cells, perplexity)))
    head = f"{answer.id}: {answer.suite}, seed {result.seed}"
    skipped = f"not asked: {counts(result.skipped)}" if result.skipped else ""
    return Group(Text(head, style="bold"), table, *([Text(skipped)] if skipped else []))


def comparison_table(answer: EvaluationComparison) -> RenderableType:
    """A table of the cases that got better or worse."""
    differences = _table("metric", f"{answer.b} - {answer.a}")
    for name in COLUMNS:
        if name in answer.differences:
            figure = _figure(answer.differences[name])
            differences.add_row(Text(COLUMNS[name]), Text(figure))
    cases = _table("", "case", "prompt", "changes")
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


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
