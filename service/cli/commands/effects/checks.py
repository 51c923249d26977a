"""``jeep versions check``: which of its facts a version says now."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from jeep_core.text.counting import counted
from service.cli import tables
from service.cli.common import (
    AsJson,
    Url,
    connected,
    count_or_all,
    err,
    finish,
    said_only,
    show,
)
from service.cli.listing import Listing

if TYPE_CHECKING:
    from service.client import Client
    from service.contracts.schemas.effects.checks import Check


def check(
    version: Annotated[str, typer.Argument(help="Version id, snapshot name or head.")] = "head",
    facts: Annotated[
        str | None, typer.Option(help="How many live facts are drawn, or all (default).")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Draws them; default: 0.")] = None,
    subject: Annotated[str | None, typer.Option(help="Only facts about it.")] = None,
    edit: Annotated[str | None, typer.Option(help="Only facts of this batch.")] = None,
    missing: Annotated[
        Path | None, typer.Option(help="Write the facts that do not hold here, for jeep edit.")
    ] = None,
    earlier: Annotated[
        str | None, typer.Option("--show", help="Show an earlier one (check_…) instead.")
    ] = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Ask a version its facts, without an edit.

    Afterwards jeep versions facts shows for each of them whether it holds.
    """
    with connected(url) as client:
        if earlier is not None:
            found: Check = client.check_result(earlier)
            show(found, as_json, check_table)
        else:
            chosen = count_or_all(facts, "--facts")
            options: dict[str, Any] = {
                "facts": chosen, "seed": seed, "subject": subject, "edit_id": edit
            }  # fmt: skip
            job = client.check(version, **said_only(options))
            check_id = str(job.resource_id)
            answer = lambda _: client.check_result(check_id)  # noqa: E731
            found = finish(client, job.id, as_json, check_table, answer)
        if missing is not None:
            _write(client, found, missing)


def _write(client: Client, found: Check, file: Path) -> None:
    size = client.missing_facts(found.id, file)
    err.print(f"{file}: {size:,} bytes", markup=False)


def check_table(answer: Check) -> RenderableType:
    """The counts, the facts that do not hold and those that could not be asked."""
    result = answer.result
    if result is None:
        return tables.without_result(answer)
    counts = f"held {result.held}, lost or never taken {result.missing}"
    if result.unasked:
        counts += f", not asked {result.unasked}"
    asked = counted(result.live, "live fact")
    if result.asked < result.live:
        asked = f"{result.asked} of {asked}, drawn with seed {result.seed}"
    parts: list[RenderableType] = [
        Text(f"{answer.id}: {result.version} was asked {asked}: {counts}", style="bold")
    ]
    if result.missing_facts:
        table = Listing("prompt", "was taught", "says", "version")
        for one in result.missing_facts:
            said = (one.prompt, one.target_new.strip(), one.answer.strip(), one.version)
            table.add_row(*map(Text, said))
        parts.append(table)
        if len(result.missing_facts) < result.missing:
            rest = result.missing - len(result.missing_facts)
            lists = f"jeep versions facts --missing --version {result.version}"
            parts.append(Text(f"and {rest:,} more: {lists} lists them"))
        in_chats = any(one.contexts != "plain" for one in result.missing_facts)
        how = "jeep edit FILE" + (" --contexts both" if in_chats else "")
        written = f"jeep versions check --show {answer.id} --missing FILE"
        parts.append(Text(f"To edit them again: {written}, then {how}", style="dim"))
    if result.unasked_facts:
        table = Listing("prompt", "was taught", "not asked, as")
        for fact in result.unasked_facts:
            table.add_row(*map(Text, (fact.prompt, fact.target_new.strip(), fact.why)))
        parts.append(table)
    return Group(*parts)
