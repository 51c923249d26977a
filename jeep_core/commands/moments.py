"""Second moments from a terminal: ``python -m jeep_core.commands.moments`` or ``jeep moments``.

``compute`` takes them over a text, or one shard of them; ``merge`` puts shards together;
``import`` reads published ``.npz`` files.  All write into the folder that edits read from.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from safetensors import SafetensorError

from jeep_core.commands import MODEL_HELP, MODELS_DIR_HELP
from jeep_core.edit import corpus_texts
from jeep_core.editors import hparams_class
from jeep_core.errors import JeepError
from jeep_core.models.loading import LoadedModel, load
from jeep_core.moments import cache as core
from jeep_core.moments.published import Imported
from jeep_core.moments.sums import MomentSums, merge, padding_share
from jeep_core.spec.hparams import presets_for, validate_hparams
from jeep_core.spec.matrices import AttentionOut, Place, in_order, layer_of

EXIT_FAILED = 1
err = Console(stderr=True, highlight=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    args = _parser().parse_args(arguments)
    try:
        for line in args.run(args):
            print(line, flush=True)
    except (JeepError, OSError, SafetensorError) as error:
        print(f"jeep: {error}", file=sys.stderr)
        return EXIT_FAILED
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="jeep moments", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="compute | merge | import")
    model = argparse.ArgumentParser(add_help=False)
    model.add_argument("--model", required=True, help=MODEL_HELP)
    model.add_argument("--models-dir", type=Path, help=MODELS_DIR_HELP)
    model.add_argument("--device", default="auto")
    model.add_argument("--dtype", default="auto")
    folder = argparse.ArgumentParser(add_help=False)
    folder.add_argument("--folder", type=Path, required=True, help="where moments are kept")

    compute = commands.add_parser("compute", parents=[model, folder], help=_compute.__doc__)
    compute.add_argument("--layers", type=_layers, help="3-8,15; default: those of the presets")
    compute.add_argument("--attention-layers", type=_layers, help="attention outputs of these")
    compute.add_argument("--corpus", type=Path, help="text, one document a line")
    compute.add_argument("--samples", type=int, default=0, help="tokens; default: 20 per dimension")
    compute.add_argument("--shard", type=_shard, default=(0, 1), help="i/n, i from 1")
    compute.add_argument("--out", type=Path, help="where a shard's sums go; needed with --shard")
    compute.set_defaults(run=_compute)

    merging = commands.add_parser("merge", parents=[folder], help=_merge.__doc__)
    merging.add_argument("shards", type=Path, nargs="+")
    merging.set_defaults(run=_merge)

    importing = commands.add_parser("import", parents=[model, folder], help=_import.__doc__)
    importing.add_argument("files", type=Path, nargs="+", help="one .npz file per layer")
    importing.add_argument("--name", required=True, help="what edits name them by: JEEP_MOMENTS")
    importing.add_argument("--layer", type=int, help="if a single file's name does not say it")
    importing.set_defaults(run=_import)
    return parser


def _compute(args: argparse.Namespace) -> Iterator[str]:
    """Take second moments over a text."""
    shard, of = args.shard
    if of > 1 and args.out is None:
        raise JeepError("a shard needs --out, the file its sums go to")
    base = load(args.model, args.device, args.dtype, args.models_dir)
    places = _places(args, base)
    wrong = [place for place in places if layer_of(place) >= base.n_layers]
    if wrong:
        raise JeepError(f"{base.name} has {base.n_layers} layers, none {layer_of(wrong[0])}")
    texts = corpus_texts(base.name, args.corpus)
    moments = core.Moments(base, texts, args.samples, args.folder, shipped=False)
    batches = moments.batches()
    yield f"{len(batches)} batches, {padding_share(batches):.1%} padding"
    with _bar() as progress:
        if of == 1:
            moments.ensure(places, progress)
            yield from (f"layer {place}: {moments.path(place)}" for place in places)
        else:
            found = moments.sums(places, shard, of, progress)
            found.save(args.out)
            yield f"shard {shard + 1}/{of}, {found.count} tokens: {args.out}"


def _merge(args: argparse.Namespace) -> Iterator[str]:
    """Put all shards of one pass together."""
    merged = merge([MomentSums.load(path) for path in args.shards])
    for layer, path in zip(merged.keys, core.keep(merged, args.folder), strict=True):
        yield f"layer {layer}, {merged.count} tokens: {path}"


def _import(args: argparse.Namespace) -> Iterator[str]:
    """Read published .npz statistics."""
    if args.layer is not None and len(args.files) > 1:
        raise JeepError("--layer goes with a single file")
    base = load(args.model, args.device, args.dtype, args.models_dir)
    target = Imported(args.folder, args.name)
    for file in args.files:
        record = target.add(base, file, args.layer)
        yield f"layer {record['layer']}, {record['tokens']} tokens: {file.name}"


def _places(args: argparse.Namespace, base: LoadedModel) -> list[Place]:
    """Those that are asked for, else those of the presets."""
    asked = [*(args.layers or []), *map(AttentionOut, args.attention_layers or [])]
    return asked or _preset_places(base)


def _preset_places(base: LoadedModel) -> list[Place]:
    places: set[Place] = set()
    for preset in presets_for(base.name):
        checked = validate_hparams(hparams_class(preset.editor), preset.hparams, base.n_layers)
        places |= set(checked.moment_layers)
    if not places:
        raise JeepError(f"{base.name} has no presets; give --layers")
    return sorted(places, key=in_order)


def _layers(text: str) -> list[int]:
    """Numbers and ranges: ``3-8,15``."""
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        span = range(int(first), int(last or first) + 1)
        if not span:
            raise ValueError(text)
        found |= set(span)
    return sorted(found)


def _shard(text: str) -> tuple[int, int]:
    """``2/4`` is (1, 4)."""
    number, _, of = text.partition("/")
    if not 1 <= int(number) <= int(of):
        raise ValueError(text)
    return int(number) - 1, int(of)


@contextmanager
def _bar() -> Iterator[core.Progress]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("tokens"),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err) as bar:
        task = bar.add_task("moments", total=None)
        begun = False

        def show(phase: str, done: int, total: int) -> None:
            nonlocal begun
            if not begun:  # the part done by an interrupted pass tells nothing about speed
                bar.reset(task, total=total, completed=done)
            begun = True
            bar.update(task, description=phase, completed=done)

        yield show


if __name__ == "__main__":
    raise SystemExit(main())
