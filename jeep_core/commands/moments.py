"""Second moments from a terminal: ``jeep moments``.

`compute` takes them over a text, or one shard of them; `merge_shards` puts shards together;
`import_published` reads published ``.npz`` files.  All write into the folder that edits read from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
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

from jeep_core.commands.working import executor_for
from jeep_core.editors import hparams_class
from jeep_core.errors import JeepError
from jeep_core.executors.choice import ALONE, Choice
from jeep_core.models.loading import LoadedModel, load
from jeep_core.moments import cache as core
from jeep_core.moments.of_texts import corpus_texts
from jeep_core.moments.published import Imported
from jeep_core.moments.source import samples_of
from jeep_core.moments.sums import MomentSums, merge, padding_share
from jeep_core.monitor import Monitor
from jeep_core.spec.hparams import presets_for, validate_hparams
from jeep_core.spec.matrices import AttentionOut, GradientOf, Measured, in_order, layer_of
from jeep_core.text.counting import counted

err = Console(stderr=True, highlight=False)


def compute(
    *,
    model: str,
    folder: Path,
    layers: Sequence[int] | None = None,
    attention_layers: Sequence[int] | None = None,
    gradient_layers: Sequence[int] | None = None,
    corpus: Path | None = None,
    samples: int = 0,
    shard: tuple[int, int] = (0, 1),
    out: Path | None = None,
    device: str = "auto",
    dtype: str = "auto",
    models_dir: Path | None = None,
    executor: Choice = ALONE,
) -> Iterator[str]:
    """Take second moments over a text and yield a line for each result.

    Args:
        model: bundled name, local folder, GGUF file, hub id, or a name of ``models_dir``.
        folder: where moments are kept.
        layers: whose MLPs; None, without others too: those of the model's presets.
        attention_layers: whose attention outputs.
        gradient_layers: whose gradients; not with others in shards.
        corpus: text, one document a line; None: that of the bundled models.
        samples: tokens; 0: by the text (``samples_of``).
        shard: number from 0, and how many there are.
        out: file for the sums of one of several shards.
        device: ``auto``, ``cpu``, ``cuda``, …
        dtype: ``auto`` or the model's.
        models_dir: the model directory; None: there is none.
        executor: whose workers read the text.

    Raises:
        JeepError: no text, no such layer, a shard without ``out``, a model that cannot be loaded.
        OSError: a file or folder cannot be read or written.
    """
    number, of = shard
    if of > 1 and out is None:
        raise JeepError("a shard needs --out, the file its sums go to")
    base = load(model, device, dtype, models_dir)
    places: list[Measured] = [
        *(layers or ()),
        *map(AttentionOut, attention_layers or ()),
        *map(GradientOf, gradient_layers or ()),
    ]
    places = places or _preset_places(base, keys_only=of > 1)
    if of > 1 and len({isinstance(place, GradientOf) for place in places}) > 1:
        raise JeepError("gradients are taken in a pass of their own: give them own shards")
    wrong = [place for place in places if layer_of(place) >= base.n_layers]
    if wrong:
        raise JeepError(
            f"{base.name} has {counted(base.n_layers, 'layer')}, none {layer_of(wrong[0])}"
        )
    texts = corpus_texts(base.name, corpus)
    samples = samples or samples_of(base.name, corpus, base.mlp_size)
    bfloat16 = core.quick_products(base, corpus)
    moments = core.Moments(base, texts, samples, folder, shipped=False, bfloat16=bfloat16)
    only_gradients = all(isinstance(place, GradientOf) for place in places)
    batches = moments.gradient_batches() if only_gradients else moments.batches()
    yield f"{counted(len(batches), 'batch', 'batches')}, {padding_share(batches):.1%} padding"
    with _bar() as monitor, closing(executor_for(executor, base)) as workers:
        if out is None or of == 1:
            moments.ensure(places, monitor, workers)
            yield from (f"layer {place}: {moments.path(place)}" for place in places)
        else:
            found = moments.sums(places, number, of, monitor, workers)
            found.save(out)
            yield f"shard {number + 1}/{of}, {found.count} tokens: {out}"


def merge_shards(shards: Sequence[Path], *, folder: Path) -> Iterator[str]:
    """Put all shards of one pass together, into ``folder``, and yield a line for each layer.

    Raises:
        JeepError: a shard is missing, damaged or of another pass.
        OSError: a file or folder cannot be read or written.
    """
    merged = merge([MomentSums.load(path) for path in shards])
    for layer, path in zip(merged.keys, core.keep(merged, folder), strict=True):
        yield f"layer {layer}, {merged.count} tokens: {path}"


def import_published(
    files: Sequence[Path],
    *,
    model: str,
    folder: Path,
    name: str,
    layer: int | None = None,
    device: str = "auto",
    dtype: str = "auto",
    models_dir: Path | None = None,
) -> Iterator[str]:
    """Import published statistics and yield a line for each file.

    Args:
        files: one ``.npz`` file per layer.
        model: bundled name, local folder, GGUF file, hub id, or a name of ``models_dir``.
        folder: where moments are kept.
        name: by which edits name them.
        layer: of a single file whose name does not say it.
        device: ``auto``, ``cpu``, ``cuda``, …
        dtype: ``auto`` or the model's.
        models_dir: the model directory; None: there is none.

    Raises:
        JeepError: a file that is damaged or of another model, ``layer`` with several files.
        OSError: the folder cannot be written.
    """
    if layer is not None and len(files) > 1:
        raise JeepError("--layer goes with a single file")
    base = load(model, device, dtype, models_dir)
    target = Imported(folder, name)
    for file in files:
        record = target.add(base, file, layer)
        yield f"layer {record['layer']}, {record['tokens']} tokens: {file.name}"


def _preset_places(base: LoadedModel, keys_only: bool) -> list[Measured]:
    places: set[Measured] = set()
    for preset in presets_for(base.name, shape=base.shape):
        checked = validate_hparams(hparams_class(preset.editor), preset.hparams, base.n_layers)
        places |= set(checked.moment_layers)
    if keys_only:
        places = {place for place in places if not isinstance(place, GradientOf)}
    if not places:
        raise JeepError(f"{base.name} has no presets; give --layers")
    return sorted(places, key=in_order)


@contextmanager
def _bar() -> Iterator[Monitor]:
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

        yield Monitor(show)
