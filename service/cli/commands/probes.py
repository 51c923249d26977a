"""``jeep probe`` on this machine, and ``jeep probes`` of a running service."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from jeep_core.text.counting import counted
from service.cli import tables
from service.cli.common import (
    AsJson,
    ModelsDir,
    Url,
    check_facts,
    connected,
    err,
    finish,
    read_facts,
    settings_or_exit,
    show,
    show_list,
)
from service.cli.groups import group as new_group
from service.cli.library import Corpus, Device, Dtype, Model, library, model_options
from service.store.base.files import BaseFiles

if TYPE_CHECKING:
    from service.client import Client
    from service.contracts.schemas import Probe

ProbeId = Annotated[str, typer.Argument(help="As jeep probes list shows it.")]
Quick = Annotated[
    bool, typer.Option("--quick", help="Only what layers are proposed by, of 64 prompts at most.")
]

group = new_group(
    "Probes by a running service.",
    lists=True,
    epilog="jeep probe does it on this machine, without a service.",
)


def probe(
    out: Annotated[Path, typer.Option(help="Folder for probe.json and plots.")],
    model: Model = None,
    suite: Annotated[
        str | None, typer.Option(help="Suite of facts, file or bundled name; default: one ships.")
    ] = None,
    quick: Quick = False,
    limit: Annotated[int | None, typer.Option(help="Prompts; default: 256.")] = None,
    seed: Annotated[int, typer.Option(help="Draws prompts, donors and noise.")] = 0,
    corpus: Corpus = None,
    table: Annotated[
        Path | None, typer.Option(help="Facts: JSON lines of subject, relation, object.")
    ] = None,
    keep: Annotated[
        Path | None,
        typer.Option(help="Folder in which edits look for a probe; default: the store's."),
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
    models_dir: ModelsDir = None,
) -> None:
    """Find the layers that an edit should write.

    Reads, layer by layer, what a model holds of its original answers and of those it shall
    learn, writes probe.json and plots, and proposes layers.
    """
    settings = settings_or_exit()
    if keep is None and settings.store.is_dir():
        keep = BaseFiles(settings.store).probes_folder
    options = model_options(settings, model, device, dtype, models_dir)
    options |= {"corpus": corpus or settings.corpus, "table": table, "keep": keep}
    if limit is not None:
        options["limit"] = limit
    with library("probe") as probing:
        probing.run(out=out, suite=suite, seed=seed, quick=quick, **options)


@group.command("run")
def run_probe(
    suite: Annotated[str | None, typer.Argument(help="Default: the bundled one.")] = None,
    facts: Annotated[Path | None, typer.Option(help="JSON or JSON lines instead.")] = None,
    version: Annotated[str, typer.Option(help="Id or name.")] = "head",
    quick: Quick = False,
    limit: Annotated[int | None, typer.Option(help="Prompts drawn at most.")] = None,
    seed: Annotated[int | None, typer.Option(help="Draws the prompts.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the record and plots.")] = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Probe a version, and show which layers an edit should write."""
    rows = None if facts is None else _facts(facts)
    with connected(url) as client:
        job = client.probe(suite, rows, version, limit=limit, seed=seed, quick=quick)
        probe_id = job.resource_id
        finish(client, job.id, as_json, probe_table, lambda _: client.probe_result(probe_id))
        if out is not None:
            _write(client, probe_id, out)


@group.command("list")
def list_probes(as_json: AsJson = False, url: Url = None) -> None:
    """List the probes, newest first."""
    with connected(url) as client:
        show_list(list(client.probes()), as_json, tables.probes)


@group.command("show")
def show_probe(probe_id: ProbeId, as_json: AsJson = False, url: Url = None) -> None:
    """Show a probe."""
    with connected(url) as client:
        show(client.probe_result(probe_id), as_json, probe_table)


@group.command("files")
def write_files(
    probe_id: ProbeId,
    folder: Annotated[Path, typer.Argument(help="Folder for the record and plots.")],
    url: Url = None,
) -> None:
    """Write the figures and plots of a probe into a folder."""
    with connected(url) as client:
        _write(client, probe_id, folder)


def _write(client: Client, probe_id: str, folder: Path) -> None:
    client.probe_files(probe_id, folder)
    err.print(f"figures and plots are in {folder}/", markup=False)


def probe_table(answer: Probe) -> RenderableType:
    """A table of a probe's proposal, or the reason why there is none."""
    result = answer.result
    if result is None:
        return tables.without_result(answer)
    left_out = ", ".join(f"{n} {why}" for why, n in result.dropped.items()) or "none"
    prompts = counted(result.prompts, "prompt")
    lines = [f"{answer.id} of {result.version}: {prompts}, left out: {left_out}"]
    if result.hparams is None:
        lines += [str(result.why_no_proposal), *_today(answer)]
        return Group(*map(Text, lines))
    lines += [f"low {result.low}, high {result.high}", f"hparams {json.dumps(result.hparams)}"]
    lines += _today(answer)
    if result.automatic:
        lines.append(
            "edits go by this probe with --hparams auto, or without hyper-parameters where the "
            "editor has no preset for this model"
        )
    return Group(*map(Text, lines))


def _today(answer: Probe) -> list[str]:
    """The hyper-parameters of its figures now, if the probe was made under another rule."""
    now = answer.today
    if now is None:
        return []
    made = answer.result and answer.result.rule
    then = "before rules had numbers" if made is None else f"under rule {made}"
    what = now.why_no_proposal if now.hparams is None else f"hparams {json.dumps(now.hparams)}"
    return [f"made {then}; by rule {now.rule}, which edits go by today: {what}"]


def _facts(path: Path) -> list[dict[str, Any]]:
    """Facts: a JSON list, an object with "facts", or one per line."""
    found = read_facts(path, "--facts")
    if isinstance(found, dict):
        found = found.get("facts", [found])
    return check_facts(found, path, "--facts")
