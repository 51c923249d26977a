"""Commands for the facts of a version, reverts and staged versions."""

from __future__ import annotations

from typing import Annotated

import typer

from service.cli import tables
from service.cli.common import EXIT_FAILED, AsJson, Url, app, connected, follow, show, show_list
from service.contracts.jobs import JobStatus


@app.command("facts")
def facts_command(
    subject: Annotated[str | None, typer.Argument(help="Also what it superseded.")] = None,
    version: Annotated[str, typer.Option(help="Version id or snapshot name.")] = "head",
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """List the live facts of a version, or all about one subject."""
    with connected(url) as client:
        show_list(list(client.facts(subject, version)), as_json, tables.facts)


@app.command("revert")
def revert_command(
    edit_id: str,
    name: Annotated[str | None, typer.Option(help="Name of the new snapshot.")] = None,
    parent: Annotated[str | None, typer.Option(help="Refuse unless this is head.")] = None,
    wait: Annotated[bool, typer.Option(help="Wait for the end and show the outcome.")] = True,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Remove one batch and apply the later ones again."""
    with connected(url) as client:
        job = client.revert(edit_id, snapshot_name=name, parent=parent)
        if wait:
            job = follow(client, job.id, quiet=as_json)
        show(job, as_json, tables.revert)
        if wait and job.status is not JobStatus.SUCCEEDED:
            raise typer.Exit(EXIT_FAILED)


@app.command("activate")
def activate_command(
    version: Annotated[str, typer.Argument(help="A staged version: its id or its name.")],
    why: Annotated[str, typer.Option(help="Kept in the reflog.")] = "",
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Make a staged version head (jeep edit --stage writes one)."""
    with connected(url) as client:
        show(client.activate(version, why), as_json, tables.activation)
