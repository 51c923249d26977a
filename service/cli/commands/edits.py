"""``jeep edit``, and ``jeep edits``: batches of facts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from service.cli import tables
from service.cli.common import (
    EXIT_FAILED,
    AsJson,
    Url,
    connected,
    follow,
    parse_json,
    show,
    show_records,
)
from service.cli.groups import group as new_group

EditId = Annotated[str, typer.Argument(help="As jeep edits list shows it.")]

group = new_group(
    "Batches of facts: list, show, revert.", lists=True, epilog="jeep edit FILE submits a batch."
)


def edit(
    file: Annotated[Path, typer.Argument(help="JSON, JSON lines or CSV; -: standard input.")],
    editor: Annotated[str | None, typer.Option(help="Name of the editor; default: jeep.")] = None,
    preset: Annotated[str | None, typer.Option(help="Named hyper-parameters.")] = None,
    hparams: Annotated[str | None, typer.Option(help="JSON laid over the preset, or auto.")] = None,
    contexts: Annotated[
        str | None, typer.Option(help="How facts are asked while edited: plain, chat, both.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the new snapshot.")] = None,
    parent: Annotated[str | None, typer.Option(help="Refuse unless this is head.")] = None,
    guards: Annotated[str | None, typer.Option(help="Limits as JSON.")] = None,
    stage: Annotated[bool, typer.Option("--stage", help="Write the version, leave head.")] = False,
    format: Annotated[str | None, typer.Option(help="Of the records: auto, zsre, …")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Edit the first records only.")] = None,
    drop_bad: Annotated[bool, typer.Option(help="Leave out and count bad records.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Show tokens and positions only.")] = False,
    wait: Annotated[bool, typer.Option(help="Wait for the end and show the outcome.")] = True,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Submit facts, or records of any suite.

    FILE holds an array of facts, an object with "facts", one fact per line, or records in a
    format of docs/suites.md.
    """
    from service.cli.edit_files import in_contexts, read_edit, tell_losses
    from service.contracts.jobs import JobStatus
    from service.contracts.schemas import AUTO

    body = read_edit(file, format, limit, drop_bad)
    given: dict[str, Any] = {"editor": editor, "preset": preset, "parent": parent}
    given["snapshot_name"], given["hparams"] = name, hparams
    if hparams and hparams != AUTO:
        given["hparams"] = parse_json(hparams, "--hparams")
    if contexts is not None:
        given["hparams"] = in_contexts(given["hparams"], contexts)
    given["activate"] = False if stage else None
    given["guards"] = parse_json(guards, "--guards") if guards else None
    body |= {key: value for key, value in given.items() if value is not None}
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
            show(job, as_json, lambda job: f"{job.id} is {job.status.value}")
            return
        done = follow(client, job.id, quiet=as_json)
        show(client.edit_result(str(done.edit_id)), as_json, tables.edit)
        if done.status is not JobStatus.SUCCEEDED:
            raise typer.Exit(EXIT_FAILED)


@group.command("list")
def list_edits(as_json: AsJson = False, url: Url = None) -> None:
    """List the submitted batches, newest first."""
    with connected(url) as client:
        show_records(list(client.edits()), as_json, tables.edits)


@group.command("show")
def show_edit(edit_id: EditId, as_json: AsJson = False, url: Url = None) -> None:
    """Show a batch with the outcome of every fact."""
    with connected(url) as client:
        show(client.edit_result(edit_id), as_json, tables.edit)


@group.command("revert")
def revert(
    edit_id: EditId,
    name: Annotated[str | None, typer.Option(help="Name of the new snapshot.")] = None,
    parent: Annotated[str | None, typer.Option(help="Refuse unless this is head.")] = None,
    wait: Annotated[bool, typer.Option(help="Wait for the end and show the outcome.")] = True,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Remove one batch and apply the later ones again."""
    from service.contracts.jobs import JobStatus

    with connected(url) as client:
        job = client.revert(edit_id, snapshot_name=name, parent=parent)
        if wait:
            job = follow(client, job.id, quiet=as_json)
        show(job, as_json, tables.revert)
        if wait and job.status is not JobStatus.SUCCEEDED:
            raise typer.Exit(EXIT_FAILED)
