"""Commands for the trained networks of editors in a running service."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.table import Table

from service.cli.common import (
    EXIT_FAILED,
    AsJson,
    Url,
    app,
    connected,
    follow,
    out,
    parse_json,
    parse_object,
    show,
    show_list,
)
from service.cli.edit_files import tell_losses
from service.contracts.jobs import JobStatus
from service.contracts.schemas import Network


@app.command("hypernetworks")
def list_command(as_json: AsJson = False, url: Url = None) -> None:
    """List the trained networks of the served model."""
    with connected(url) as client:
        show_list(list(client.hypernetworks()), as_json, _table)


@app.command("submit-hypernetwork")
def submit_command(
    editor: Annotated[str, typer.Argument(help="mend or malmen")],
    steps: Annotated[int | None, typer.Option()] = None,
    data: Annotated[str | None, typer.Option(help="A file in the store's folder training.")] = None,
    hparams: Annotated[str | None, typer.Option(help="JSON laid over the preset.")] = None,
    options: Annotated[str | None, typer.Option(help="JSON: learning_rate, facts, …")] = None,
    wait: Annotated[bool, typer.Option(help="Wait for the end and show the network.")] = True,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Have the service train a network alongside its other work."""
    asked: dict[str, Any] = parse_object(options, "--options") if options else {}
    given = {"steps": steps, "data": data}
    given["hparams"] = parse_json(hparams, "--hparams") if hparams else None
    with connected(url) as client:
        job = client.train_hypernetwork(editor, **{**asked, **given})
        tell_losses(job.imported)
        if not wait:
            show(job, as_json, lambda job: f"{job.id} is {job.status.value}")
            return
        done = follow(client, job.id, quiet=as_json)
        if done.status is not JobStatus.SUCCEEDED:
            out.print(f"{job.id} {done.status.value}: {done.error}", markup=False)
            raise typer.Exit(EXIT_FAILED)
        show(Network.model_validate(done.result), as_json, lambda network: _table([network]))


def _table(networks: Sequence[Network]) -> Table:
    table = Table("editor", "layers", "rank", "data", "steps", "NLL before, after", "KL", "sha256")
    for network in networks:
        held = network.held_back or {}
        table.add_row(
            network.editor,
            " ".join(map(str, network.layers)),
            str(network.rank),
            network.data,
            str(network.settings.get("steps", "")),
            f"{held['nll_before']:.2f}, {held['nll_after']:.2f}" if held else "",
            f"{held['kl']:.3f}" if held else "",
            network.sha256[:12] + (" (shipped)" if network.shipped else ""),
        )
    return table
