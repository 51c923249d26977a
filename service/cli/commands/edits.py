"""``jeep edit``, and ``jeep edits``: batches of facts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from jeep_core.editors import DEFAULT_EDITOR
from service.cli import tables
from service.cli.common import (
    AsJson,
    DropBad,
    HParams,
    Parent,
    Preset,
    SnapshotName,
    Url,
    Wait,
    connected,
    count_or_all,
    finish,
    hparams_given,
    parse_json,
    said_only,
    show,
    show_list,
    show_status,
)
from service.cli.groups import group as new_group

EditId = Annotated[str, typer.Argument(help="As jeep edits list shows it.")]

group = new_group(
    "Batches of facts: list, show, revert.", lists=True, epilog="jeep edit FILE submits a batch."
)


def edit(
    file: Annotated[Path, typer.Argument(help="JSON, JSON lines or CSV; -: standard input.")],
    editor: Annotated[
        str | None, typer.Option(help=f"A name, or auto: chosen; default: {DEFAULT_EDITOR}.")
    ] = None,
    preset: Preset = None,
    hparams: HParams = None,
    contexts: Annotated[
        str | None, typer.Option(help="How facts are asked while edited: plain, chat, both.")
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Optimise values as published, none faster.")
    ] = False,
    name: SnapshotName = None,
    parent: Parent = None,
    guards: Annotated[
        str | None, typer.Option(help="Limits as JSON: min_success, min_efficacy, …")
    ] = None,
    check_earlier: Annotated[
        str | None, typer.Option(help="Earlier facts asked again: a number, or all.")
    ] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Edit those again that do not hold.")
    ] = False,
    stage: Annotated[bool, typer.Option("--stage", help="Write the version, leave head.")] = False,
    format: Annotated[str | None, typer.Option(help="Of the records: auto, zsre, …")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Edit the first records only.")] = None,
    drop_bad: DropBad = False,
    dry_run: Annotated[bool, typer.Option(help="Show tokens and positions only.")] = False,
    wait: Wait = True,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Submit facts, or records of any suite.

    FILE holds an array of facts, an object with "facts", one fact per line, or records in a
    format of docs/suites.md.
    """
    from service.cli.edit_files import lay_over, read_edit, tell_losses

    body = read_edit(file, format, limit, drop_bad)
    given: dict[str, Any] = {"editor": editor, "preset": preset, "parent": parent}
    given["snapshot_name"], given["hparams"] = name, hparams_given(hparams)
    given["activate"] = False if stage else None
    given["repair"] = repair or None
    given["check_earlier"] = count_or_all(check_earlier, "--check-earlier")
    given["guards"] = parse_json(guards, "--guards") if guards else None
    body |= said_only(given)
    lay_over(body, said_only({"contexts": contexts, "exact": exact or None}))
    facts = body.pop("facts", [])
    with connected(url) as client:
        if dry_run:
            plan = client.plan(facts, **body)
            tell_losses(plan.imported)
            show(plan, as_json, tables.plan)
            return
        job = client.edit(facts, **body)
        tell_losses(job.imported)
        if not wait:
            show_status(job, as_json)
            return
        finish(client, job.id, as_json, tables.edit, lambda _: client.edit_result(job.resource_id))


@group.command("list")
def list_edits(as_json: AsJson = False, url: Url = None) -> None:
    """List the submitted batches, newest first; hold: the share of facts that are written."""
    with connected(url) as client:
        show_list(list(client.edits()), as_json, tables.edits)


@group.command("show")
def show_edit(edit_id: EditId, as_json: AsJson = False, url: Url = None) -> None:
    """Show a batch with the outcome of every fact."""
    with connected(url) as client:
        show(client.edit_result(edit_id), as_json, tables.edit)


@group.command("revert")
def revert(
    edit_id: EditId,
    name: SnapshotName = None,
    parent: Parent = None,
    wait: Wait = True,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Remove one batch and apply the later ones again."""
    with connected(url) as client:
        job = client.revert(edit_id, snapshot_name=name, parent=parent)
        if wait:
            finish(client, job.id, as_json, tables.revert)
        else:
            show(job, as_json, tables.revert)
