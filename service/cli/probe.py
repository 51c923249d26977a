"""``jeep probe`` on this machine, and ``jeep probes`` of a running service."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from service.cli.common import (
    EXIT_FAILED,
    AsJson,
    CommandGroup,
    Url,
    app,
    check_facts,
    connected,
    err,
    follow,
    read_facts,
    require_worker_parts,
    settings_or_exit,
    show,
)
from service.contracts.jobs import JobStatus
from service.contracts.schemas.probe import Probe

probes_app = CommandGroup(no_args_is_help=True, help="Probe versions of a running service.")
app.add_typer(probes_app, name="probes")
PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


@app.command("probe", context_settings=PASSED_ON, add_help_option=False)
def probe_command(context: typer.Context) -> None:
    """Probe the configured model: figures, plots, and which layers to edit."""
    require_worker_parts()
    settings = settings_or_exit()
    flags: dict[str, object] = {"--model": settings.model, "--device": settings.device}
    flags |= {"--dtype": settings.dtype, "--corpus": settings.corpus}
    flags |= {"--models-dir": settings.models}
    if settings.store.is_dir():
        flags |= {"--keep": settings.store / "base" / "probes"}
    set_here = {flag: value for flag, value in flags.items() if value is not None}
    given = [str(part) for pair in set_here.items() for part in pair] if context.args else []
    command = [sys.executable, "-m", "jeep_core.commands.probe", *given, *context.args]
    os.execv(sys.executable, command)


@probes_app.command("run")
def run_command(
    suite: Annotated[str | None, typer.Argument(help="Default: the bundled one.")] = None,
    facts: Annotated[Path | None, typer.Option(help="JSON or JSON lines instead.")] = None,
    version: Annotated[str, typer.Option(help="Id or name.")] = "head",
    limit: Annotated[int | None, typer.Option(help="Prompts drawn at most.")] = None,
    seed: Annotated[int | None, typer.Option()] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the record and plots.")] = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Probe a version, and show which layers an edit should write."""
    rows = None if facts is None else _facts(facts)
    with connected(url) as client:
        job = client.probe(suite, rows, version, limit=limit, seed=seed)
        done = follow(client, job.id, quiet=as_json)
        found = client.probe_result(str(job.probe_id))
        show(found, as_json, probe_table)
        if done.status is not JobStatus.SUCCEEDED:
            raise typer.Exit(EXIT_FAILED)
        if out is not None:
            client.probe_files(found.id, out)
            err.print(f"figures and plots are in {out}/", markup=False)


@probes_app.command("show")
def show_command(probe_id: str, as_json: AsJson = False, url: Url = None) -> None:
    """Show a probe."""
    with connected(url) as client:
        show(client.probe_result(probe_id), as_json, probe_table)


def probe_table(answer: Probe) -> RenderableType:
    """A table of a probe's proposal, or the reason why there is none."""
    result = answer.result
    if result is None:
        why = f": {answer.error.code}: {answer.error.message}" if answer.error else ""
        return Text(f"{answer.id} {answer.status.value}{why}", style="red")
    left_out = ", ".join(f"{n} {why}" for why, n in result.dropped.items()) or "none"
    lines = [f"{answer.id} of {result.version}: {result.prompts} prompts, left out: {left_out}"]
    if result.hparams is None:
        return Group(*map(Text, [*lines, str(result.why_no_proposal)]))
    lines += [f"low {result.low}, high {result.high}", f"hparams {json.dumps(result.hparams)}"]
    if result.automatic:
        lines.append('hparams "auto" goes by this probe')
    return Group(*map(Text, lines))


def _facts(path: Path) -> list[dict[str, Any]]:
    """Facts: a JSON list, an object with "facts", or one per line."""
    found = read_facts(path, "--facts")
    if isinstance(found, dict):
        found = found.get("facts", [found])
    return check_facts(found, path, "--facts")
