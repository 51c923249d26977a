"""``jeep suites``: what edits are measured on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from jeep_core.text.counting import counted
from service.cli.common import (
    EXIT_FAILED,
    AsJson,
    DropBad,
    Url,
    complain,
    connected,
    show,
    show_list,
)
from service.cli.groups import group as new_group
from service.cli.listing import Listing
from service.cli.reading import counts, loss_lines

if TYPE_CHECKING:
    from service.contracts.schemas import SuiteInfo
    from service.contracts.schemas.evaluation import HarnessInfo

group = new_group("Evaluation suites: list, add.", lists=True)


@group.command("list")
def list_suites(as_json: AsJson = False, url: Url = None) -> None:
    """List the suites, the bundled ones first."""
    with connected(url) as client:
        show_list(client.suites(), as_json, suites_table)


@group.command("tasks")
def list_tasks(as_json: AsJson = False, url: Url = None) -> None:
    """List the tasks of lm-eval, which evaluations take as lm-eval:NAME."""
    with connected(url) as client:
        show(client.lm_eval(), as_json, tasks_table)


@group.command("add")
def add_suite(
    name: Annotated[str, typer.Argument(help="What evaluations will call it.")],
    source: Annotated[str, typer.Argument(help="File, or hub:owner/name/path/to/file.")],
    format: Annotated[str | None, typer.Option(help="Default: seen from the records.")] = None,
    drop_bad: DropBad = False,
    style: Annotated[str | None, typer.Option(help="Judged by contrast, accuracy, auto.")] = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Upload a suite, in any format of docs/suites.md: JSON, JSON lines or CSV."""
    from jeep_core.errors import JeepError
    from jeep_core.suites import hub_file
    from jeep_core.suites.hub import SCHEME

    try:
        path = hub_file(source) if source.startswith(SCHEME) else Path(source)
        path.open("rb").close()
    except OSError as error:
        message = f"{source} cannot be read: {error.strerror}"
        raise typer.BadParameter(message, param_hint="SOURCE") from None
    except JeepError as error:
        complain(f"jeep: {error}")
        raise typer.Exit(EXIT_FAILED) from None
    with connected(url) as client:
        found = client.add_suite(name, path, format, drop_bad, style)
        show(found, as_json, suite_added)


def suites_table(answers: Sequence[SuiteInfo]) -> RenderableType:
    """The suites with what was left out of them."""
    table = Listing("name", "format", "judged by", "cases", "dropped", "left out", "sha256")
    for one in answers:
        dropped, left_out = counts(one.dropped), counts(one.left_out)
        cells = (one.name, one.format, one.style, one.cases, dropped, left_out, one.sha256[:12])
        table.add_row(*(Text(str(cell)) for cell in cells))
    return table


def tasks_table(answer: HarnessInfo) -> RenderableType:
    """The tasks of lm-eval, and whether the worker can run them."""
    table = Listing("suite", "asks", "from", "tasks")
    for one in answer.tasks:
        origin = "bundled" if one.bundled else one.file
        cells = (f"lm-eval:{one.name}", one.problem or one.kind, origin, ", ".join(one.tasks))
        table.add_row(*map(Text, cells))
    said = answer.unavailable or f"lm-eval {answer.version}"
    return Group(table, Text(said))


def suite_added(answer: SuiteInfo) -> RenderableType:
    """A suite with its prompts by kind, and the first records or parts left out."""
    kinds = f"{counted(answer.records, 'record')}; {counts(answer.prompts)}"
    return Group(suites_table([answer]), Text(kinds), *loss_lines(answer))
