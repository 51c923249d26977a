"""``jeep moments``: second moments of keys, computed here or taken from published statistics."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.cli.common import ModelsDir, settings_or_exit
from service.cli.groups import group as new_group
from service.cli.library import (
    Address,
    Corpus,
    Device,
    Dtype,
    ExecutorName,
    Model,
    MomentsFolder,
    Samples,
    Workers,
    executor_options,
    library,
    model_options,
    moments_folder,
    text_options,
)

group = new_group("Second moments: compute, merge, import.")


@group.command("compute")
def compute(
    model: Model = None,
    layers: Annotated[
        str | None, typer.Option(help="3-8,15; default: those of the presets.")
    ] = None,
    attention_layers: Annotated[
        str | None, typer.Option(help="Attention outputs of these layers.")
    ] = None,
    gradient_layers: Annotated[
        str | None, typer.Option(help="Gradients at the MLP outputs of these layers.")
    ] = None,
    corpus: Corpus = None,
    samples: Samples = None,
    shard: Annotated[str, typer.Option(help="i/n, i from 1.")] = "1/1",
    out: Annotated[
        Path | None, typer.Option(help="Where a shard's sums go; needed with --shard.")
    ] = None,
    folder: MomentsFolder = None,
    device: Device = None,
    dtype: Dtype = None,
    models_dir: ModelsDir = None,
    executor: ExecutorName = None,
    workers: Workers = None,
    executor_address: Address = None,
) -> None:
    """Take second moments over a text, or one shard of them."""
    part = _shard(shard)
    mlps = _layers(layers, "--layers")
    attentions = _layers(attention_layers, "--attention-layers")
    gradients = _layers(gradient_layers, "--gradient-layers")
    settings = settings_or_exit()
    options = model_options(settings, model, device, dtype, models_dir)
    options |= text_options(settings, corpus, samples, folder)
    chosen = executor_options(executor, workers, executor_address)
    with library("moments") as moments:
        for line in moments.compute(
            layers=mlps,
            attention_layers=attentions,
            gradient_layers=gradients,
            shard=part,
            out=out,
            executor=moments.Choice(**(chosen or {})),
            **options,
        ):
            print(line, flush=True)


@group.command("merge")
def merge(
    shards: Annotated[list[Path], typer.Argument(help="The files of all shards of one pass.")],
    folder: MomentsFolder = None,
) -> None:
    """Put all shards of one pass together."""
    where = folder or moments_folder(settings_or_exit())
    with library("moments") as moments:
        for line in moments.merge_shards(shards, folder=where):
            print(line, flush=True)


@group.command("import")
def import_files(
    files: Annotated[list[Path], typer.Argument(help="One .npz file per layer.")],
    name: Annotated[str, typer.Option(help="By which edits name them: JEEP_MOMENTS.")],
    layer: Annotated[
        int | None, typer.Option(help="Where the name of a single file does not say it.")
    ] = None,
    model: Model = None,
    folder: MomentsFolder = None,
    device: Device = None,
    dtype: Dtype = None,
    models_dir: ModelsDir = None,
) -> None:
    """Import published .npz statistics."""
    settings = settings_or_exit()
    options = model_options(settings, model, device, dtype, models_dir)
    where = folder or moments_folder(settings)
    with library("moments") as moments:
        for line in moments.import_published(
            files, name=name, layer=layer, folder=where, **options
        ):
            print(line, flush=True)


def _layers(text: str | None, flag: str) -> list[int] | None:
    """Numbers and ranges: ``3-8,15``; None where the flag is not given."""
    if text is None:
        return None
    found: set[int] = set()
    try:
        for part in text.split(","):
            first, _, last = part.partition("-")
            span = range(int(first), int(last or first) + 1)
            if not span:
                raise ValueError
            found |= set(span)
    except ValueError:
        message = f"{text!r} is no list of layers: write numbers and ranges, as in 3-8,15"
        raise typer.BadParameter(message, param_hint=flag) from None
    return sorted(found)


def _shard(text: str) -> tuple[int, int]:
    """``2/4`` is (1, 4)."""
    number, _, of = text.partition("/")
    try:
        if 1 <= int(number) <= int(of):
            return int(number) - 1, int(of)
    except ValueError:
        pass
    message = f"{text!r} is no shard: write i/n with i from 1 to n, as in 2/4"
    raise typer.BadParameter(message, param_hint="--shard")
