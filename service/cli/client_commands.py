"""Commands that talk to a running service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from service.cli import tables
from service.cli.common import (
    EXIT_FAILED,
    AsJson,
    Url,
    app,
    connected,
    follow,
    out,
    parse_json,
    show,
    show_list,
)
from service.cli.edit_files import read_edit, tell_losses
from service.contracts.jobs import JobKind, JobStatus
from service.contracts.schemas import AUTO


@app.command("edit")
def edit_command(
    file: Annotated[Path, typer.Argument(help="JSON, JSON lines or CSV; -: standard input.")],
    editor: Annotated[str | None, typer.Option(help="Name of the editor; default: jeep.")] = None,
    preset: Annotated[str | None, typer.Option(help="Named hyper-parameters.")] = None,
    hparams: Annotated[str | None, typer.Option(help="JSON laid over the preset, or auto.")] = None,
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
    """Submit facts: an array, an object with "facts", one per line, or records of any suite."""
    body = read_edit(file, format, limit, drop_bad)
    given: dict[str, Any] = {"editor": editor, "preset": preset, "parent": parent}
    given["snapshot_name"], given["hparams"] = name, hparams
    if hparams and hparams != AUTO:
        given["hparams"] = parse_json(hparams, "--hparams")
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


@app.command("generate")
def generate_command(
    prompts: Annotated[list[str], typer.Argument(help="One or several prompts.")],
    version: Annotated[list[str] | None, typer.Option(help="Repeat to compare.")] = None,
    max_new_tokens: Annotated[int, typer.Option()] = 16,
    temperature: Annotated[float, typer.Option(help="0: greedy")] = 0.0,
    seed: Annotated[int | None, typer.Option()] = None,
    candidate: Annotated[list[str] | None, typer.Option(help="Score it; repeatable.")] = None,
    join: Annotated[str | None, typer.Option(help="Before candidates: auto, space, none.")] = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Generate answers from one or several versions."""
    with connected(url) as client:
        result = client.generate(
            prompts,
            version or "head",
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
            candidates=candidate,
            join=join,
        )
        show(result, as_json, tables.generations)


@app.command("snapshots")
def snapshots_command(as_json: AsJson = False, url: Url = None) -> None:
    """List the versions, newest first."""
    with connected(url) as client:
        show_list(list(client.snapshots()), as_json, tables.snapshots)


@app.command("name")
def name_command(name: str, version: str = "head", url: Url = None) -> None:
    """Name a version."""
    with connected(url) as client:
        out.print(f"{name} is {client.name_snapshot(name, version).id}", markup=False)


@app.command("export")
def export_command(version: str, file: Path, url: Url = None) -> None:
    """Write the tensors in which a version differs from base to a safetensors file."""
    with connected(url) as client:
        out.print(f"{file}: {client.export(version, file):,} bytes", markup=False)


@app.command("rollback")
def rollback_command(
    version: Annotated[str, typer.Argument(help="Version id, snapshot name or base.")],
    why: Annotated[str, typer.Option(help="Kept in the reflog.")] = "",
    cancel_queued: Annotated[bool, typer.Option(help="Cancel jobs not yet begun.")] = False,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Move head to a version."""
    with connected(url) as client:
        show(client.rollback(version, why, cancel_queued), as_json, tables.rollback)


@app.command("jobs")
def jobs_command(
    status: Annotated[JobStatus | None, typer.Option(help="Only these.")] = None,
    kind: Annotated[JobKind | None, typer.Option(help="Only these.")] = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """List the jobs, newest first."""
    with connected(url) as client:
        show_list(list(client.jobs(status, kind)), as_json, tables.jobs)


@app.command("cancel")
def cancel_command(job_id: str, url: Url = None) -> None:
    """Ask a job to end."""
    with connected(url) as client:
        out.print(f"{job_id} is {client.cancel(job_id).status.value}", markup=False)
