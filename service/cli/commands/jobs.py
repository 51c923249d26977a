"""``jeep jobs``: what the service works on."""

from __future__ import annotations

from typing import Annotated

import typer

from service.cli import tables
from service.cli.common import (
    AsJson,
    Url,
    connected,
    finish,
    out,
    show,
    show_list,
)
from service.cli.groups import group as new_group
from service.contracts.jobs import JobKind, JobStatus

JobId = Annotated[str, typer.Argument(help="As jeep jobs list shows it.")]

group = new_group("Jobs: list, show, follow, cancel.", lists=True)


@group.command("list")
def list_jobs(
    status: Annotated[JobStatus | None, typer.Option(help="Only these: queued, running, …")] = None,
    kind: Annotated[JobKind | None, typer.Option(help="Only these: edit, evaluation, …")] = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """List the jobs, newest first."""
    with connected(url) as client:
        show_list(list(client.jobs(status, kind)), as_json, tables.jobs)


@group.command("show")
def show_job(job_id: JobId, as_json: AsJson = False, url: Url = None) -> None:
    """Show a job."""
    with connected(url) as client:
        show(client.job(job_id), as_json, tables.job)


@group.command("follow")
def follow_job(job_id: JobId, as_json: AsJson = False, url: Url = None) -> None:
    """Wait for the end of a job and show it; exit code 1 unless it succeeds."""
    with connected(url) as client:
        finish(client, job_id, as_json, tables.job)


@group.command("workers")
def list_workers(as_json: AsJson = False, url: Url = None) -> None:
    """List the workers that do them and answer: the writer, then its followers."""
    with connected(url) as client:
        show_list(client.workers(), as_json, tables.workers)


@group.command("cancel")
def cancel(job_id: JobId, url: Url = None) -> None:
    """Ask a job to end."""
    with connected(url) as client:
        out.print(f"{job_id} is {client.cancel(job_id).status.value}", markup=False)
