"""``jeep networks``: the trained networks of editors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import RenderableType

from service.cli import tables
from service.cli.common import (
    AsJson,
    ModelsDir,
    Url,
    complain,
    connected,
    finish,
    parse_json,
    parse_object,
    settings_or_exit,
    show_list,
    show_status,
)
from service.cli.groups import group as new_group
from service.cli.library import MODEL_HELP, library
from service.cli.listing import Listing
from service.store.base.files import BaseFiles

if TYPE_CHECKING:
    from service.contracts.schemas import JobOut, Network

EXIT_INTERRUPTED = 130
Dtype = Literal["auto", "float32", "bfloat16", "float16"]

group = new_group("Trained networks of editors: list, train.", lists=True)


@group.command("list")
def list_networks(as_json: AsJson = False, url: Url = None) -> None:
    """List the trained networks of the served model."""
    with connected(url) as client:
        show_list(list(client.hypernetworks()), as_json, _table)


@group.command("submit")
def submit(
    editor: Annotated[str, typer.Argument(help="An editor with a trained network.")],
    steps: Annotated[int | None, typer.Option(help="Of the training.")] = None,
    data: Annotated[str | None, typer.Option(help="A file in the store's folder training.")] = None,
    hparams: Annotated[str | None, typer.Option(help="JSON laid over the preset.")] = None,
    options: Annotated[str | None, typer.Option(help="JSON: learning_rate, facts, …")] = None,
    wait: Annotated[bool, typer.Option(help="Wait for the end and show the network.")] = True,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Have the service train a network alongside its other work."""
    from service.cli.edit_files import tell_losses
    from service.contracts.schemas import Network

    asked: dict[str, Any] = parse_object(options, "--options") if options else {}
    given = {"steps": steps, "data": data}
    given["hparams"] = parse_json(hparams, "--hparams") if hparams else None
    with connected(url) as client:
        job = client.train_hypernetwork(editor, **{**asked, **given})
        tell_losses(job.imported)
        if not wait:
            show_status(job, as_json)
            return

        def trained(done: JobOut) -> Network | JobOut:
            return done if done.result is None else Network.model_validate(done.result)

        finish(client, job.id, as_json, _outcome, trained)


@group.command("train")
def train(
    editor: Annotated[str, typer.Argument(help="An editor with a trained network.")],
    model: Annotated[str, typer.Argument(help=f"{MODEL_HELP}.")],
    data: Annotated[Path | None, typer.Option(help="File in a format of suites.")] = None,
    store: Annotated[Path | None, typer.Option(help="The service's store (JEEP_STORE).")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder, instead of the store's.")] = None,
    layers: Annotated[str | None, typer.Option(help="6,7,8; default: the preset's.")] = None,
    rank: Annotated[int | None, typer.Option(help="Default: the preset's.")] = None,
    blocks: Annotated[int | None, typer.Option(help="Default: the preset's.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of the training.")] = None,
    facts: Annotated[int | None, typer.Option(help="Edits of one step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of the weights.")] = None,
    scalar_learning_rate: Annotated[float | None, typer.Option(help="Of scales and λ.")] = None,
    edit_weight: Annotated[float | None, typer.Option(help="Of the edits in the loss.")] = None,
    unrelated_weight: Annotated[float | None, typer.Option(help="Of other prompts.")] = None,
    clip: Annotated[float | None, typer.Option(help="Largest norm of a gradient.")] = None,
    save_every: Annotated[int | None, typer.Option(help="Steps between checkpoints.")] = None,
    seed: Annotated[int | None, typer.Option(help="Draws the edits and the start.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, …")] = "auto",
    dtype: Annotated[Dtype, typer.Option(help="auto, float32, bfloat16, float16.")] = "auto",
    models_dir: ModelsDir = None,
) -> None:
    """Train a network of an editor on this machine, into the store.

    The bundled models are trained on counterfactuals about subjects that no suite edits; every
    other model needs --data, a file whose facts are not those to be edited later.  A run that
    was interrupted goes on from its last checkpoint and ends with the same network.
    """
    given = settings_or_exit()
    settings = {"steps": steps, "facts": facts, "clip": clip, "save_every": save_every}
    settings |= {"learning_rate": learning_rate, "scalar_learning_rate": scalar_learning_rate}
    settings |= {"edit_weight": edit_weight, "unrelated_weight": unrelated_weight, "seed": seed}
    numbers = None if layers is None else _numbers(layers)
    folder = out or BaseFiles(store or given.store).networks_folder
    try:
        with library("train_network") as training:
            training.run(
                editor=editor,
                model=model,
                folder=folder,
                data=data,
                layers=numbers,
                rank=rank,
                blocks=blocks,
                device=device,
                dtype=dtype,
                models_dir=models_dir or given.models,
                **{name: value for name, value in settings.items() if value is not None},
            )
    except KeyboardInterrupt:
        complain("jeep: interrupted; the same command goes on from the checkpoint")
        raise typer.Exit(EXIT_INTERRUPTED) from None


def _numbers(text: str) -> list[int]:
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        message = f"{text!r} is no list of layers: write 6,7,8"
        raise typer.BadParameter(message, param_hint="--layers") from None


def _outcome(answer: Network | JobOut) -> RenderableType:
    from service.contracts.schemas import JobOut

    return tables.without_result(answer) if isinstance(answer, JobOut) else _table([answer])


def _table(networks: Sequence[Network]) -> Listing:
    table = Listing(
        "editor", "layers", "rank", "data", "steps", "NLL before, after", "KL", "sha256"
    )
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
