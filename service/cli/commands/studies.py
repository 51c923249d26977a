"""``jeep tune`` and ``jeep reproduce``: many edits of a model on this machine, and a result."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from jeep_core.editors import DEFAULT_EDITOR
from service.cli.common import ModelsDir, settings_or_exit
from service.cli.groups import GIVEN
from service.cli.library import (
    WORKERS_HELP,
    Address,
    Corpus,
    Device,
    Dtype,
    ExecutorName,
    Model,
    Moments,
    MomentsFolder,
    Samples,
    Workers,
    executor_options,
    known_of_processes,
    library,
    model_options,
    text_options,
)
from service.store.base.files import BaseFiles

if TYPE_CHECKING:
    from service.settings import Settings

Presets = Annotated[
    Path | None, typer.Option(help="Folder of own presets (JEEP_PRESETS).", show_default=False)
]
Edits = Annotated[int, typer.Option(min=1, help="M, the most edits together.")]
Sizes = Annotated[
    list[int] | None, typer.Option(min=1, help="Edits of the tables' rows; default: M.")
]
Seeds = Annotated[list[int] | None, typer.Option(help="Each draws M cases; default: 0.")]
Editors = Annotated[
    list[str] | None, typer.Option(help="Editors to compare; default: all built-in ones.")
]
Also = Annotated[list[str] | None, typer.Option(help="Further presets as rows of the comparison.")]
Only = Annotated[
    list[str] | None,
    typer.Option(help="comparison, scaling, ablation, sweep, case; default: all."),
]
Paper = Annotated[
    Literal["gpt-j", "llama"] | None, typer.Option(help="gpt-j or llama: figures to show as well.")
]
Networks = Annotated[Path | None, typer.Option(help="Folder of networks; default: the store's.")]
Jobs = Annotated[
    int | None,
    typer.Option(
        "--workers",
        "--jobs",
        min=1,
        help=f"{WORKERS_HELP}. Default: 1, for a bundled model on CPU as many processes as cores.",
        show_default=False,
    ),
]


def tune(
    suite: Annotated[str, typer.Option(help="Multi-CounterFact file, or a bundled suite.")],
    out: Annotated[Path, typer.Option(help="Preset to write: NAME.yaml.")],
    model: Model = None,
    editor: Annotated[str, typer.Option(help="Name of the editor.")] = DEFAULT_EDITOR,
    cases: Annotated[int, typer.Option(min=1, help="Cases that are edited together.")] = 64,
    rounds: Annotated[int, typer.Option(min=1, help="Times around the grid.")] = 2,
    seed: Annotated[int, typer.Option(help="Draws the cases from the suite.")] = 0,
    corpus: Corpus = None,
    samples: Samples = None,
    folder: MomentsFolder = None,
    moments: Moments = None,
    layers: Annotated[
        Literal["search", "auto"],
        typer.Option(
            help="search, or auto: those that a probe proposes, then only γ and λ are searched."
        ),
    ] = "search",
    probes: Annotated[
        Path | None, typer.Option(help="Folder of kept probes; default: the store's.")
    ] = None,
    presets: Presets = None,
    device: Device = None,
    dtype: Dtype = None,
    models_dir: ModelsDir = None,
    executor: ExecutorName = None,
    workers: Workers = None,
    executor_address: Address = None,
) -> None:
    """Search a preset on a validation suite.

    A small grid over γ, λ and layers is searched.  Take a suite whose facts are in no suite that
    you measure with.
    """
    settings = settings_or_exit()
    options = model_options(settings, model, device, dtype, models_dir)
    options |= text_options(settings, corpus, samples, folder)
    options |= _edit_options(settings, moments, presets)
    chosen = executor_options(executor, workers, executor_address)
    with library("tune") as tuning:
        tuning.run(
            tuning.Options(
                suite=suite,
                out=out,
                editor=editor,
                cases=cases,
                rounds=rounds,
                seed=seed,
                layers=layers,
                probes=probes or BaseFiles(settings.store).probes_folder,
                executor=tuning.Choice(**(chosen or {})),
                **options,
            )
        )


def reproduce(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder of the report.")],
    model: Model = None,
    suite: Annotated[
        str, typer.Option(help="Suite of new against true answers.")
    ] = "atlas-counterfact",
    zsre: Annotated[str, typer.Option(help="Suite of right answers; - for none.")] = "atlas-zsre",
    edits: Edits = 256,
    sizes: Sizes = None,
    seeds: Seeds = None,
    editors: Editors = None,
    also: Also = None,
    only: Only = None,
    paper: Paper = None,
    corpus: Corpus = None,
    samples: Samples = None,
    folder: MomentsFolder = None,
    moments: Moments = None,
    presets: Presets = None,
    hypernetworks: Networks = None,
    executor: ExecutorName = None,
    jobs: Jobs = None,
    executor_address: Address = None,
    device: Device = None,
    dtype: Dtype = None,
    models_dir: ModelsDir = None,
) -> None:
    """Make the paper's tables and figures.

    Writes index.html (self-contained), report.json and every plot as PNG and SVG.  Results are
    kept in the folder work beside them; the same command goes on from there.  Options for
    several values take them one after the other: --sizes 1 16 64.
    """
    settings = settings_or_exit()
    options = model_options(settings, model, device, dtype, models_dir)
    options |= text_options(settings, corpus, samples, folder)
    options |= _edit_options(settings, moments, presets)
    several = {"sizes": sizes, "seeds": seeds, "editors": editors, "also": also, "only": only}
    options |= {name: tuple(values) for name, values in several.items() if values}
    chosen = executor_options(executor, jobs, executor_address)
    with library("reproduce") as reproduction:
        reproduction.run(
            reproduction.Options(
                out=out,
                suite=suite,
                zsre=zsre,
                edits=edits,
                paper=paper,
                hypernetworks=hypernetworks or BaseFiles(settings.store).networks_folder,
                executor=None if chosen is None else reproduction.Choice(**chosen),
                processes=known_of_processes(settings),
                command=shlex.join(["jeep", "reproduce", *context.meta[GIVEN]]),
                **options,
            )
        )


def _edit_options(settings: Settings, moments: str | None, presets: Path | None) -> dict[str, Any]:
    """Further inputs of edits: imported moments and own presets."""
    return {"moments": moments or settings.moments, "presets": presets or settings.presets}
