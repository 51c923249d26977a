"""Train an editor's network: ``jeep networks train mend MODEL``.

The bundled models are trained on counterfactuals about subjects that no suite edits; every
other model needs ``--data``, a file in any format of suites whose facts are not those
to be edited later.  A run that was interrupted continues from its last checkpoint and ends
with the same network.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jeep_core import atlas
from jeep_core.commands import WrongArgument
from jeep_core.editing import resolve_hparams
from jeep_core.editors import hparams_class, with_network
from jeep_core.editors.networks.hparams import HypernetworkHParams
from jeep_core.editors.networks.storage import network_path, save_network, spec_of
from jeep_core.editors.networks.training import Training, TrainingSettings
from jeep_core.editors.networks.triples import atlas_cases, triples_of
from jeep_core.errors import JeepError
from jeep_core.models.giving_way import giving_way
from jeep_core.models.loading import LoadedModel, load
from jeep_core.monitor import NOTHING, Monitor
from jeep_core.spec.facts import Fact
from jeep_core.spec.hparams import presets_for
from jeep_core.suites import Report
from jeep_core.suites.training_data import data_hash, load_training_suite
from jeep_core.text.counting import counted


def train_network(
    base: LoadedModel,
    editor: str,
    hparams: HypernetworkHParams,
    settings: TrainingSettings,
    folder: Path,
    data: Path | None = None,
    monitor: Monitor = NOTHING,
    checkpoint: Path | None = None,
) -> Path:
    """Train to the end and write the network into ``folder``.

    Args:
        base: the model.
        editor: one with a trained network.
        hparams: the network's layers, rank and blocks.
        settings: of the training.
        folder: for networks of any model.
        data: a suite's file; None: the bundled training split of a bundled model.
        monitor: receives steps taken (phase "train"), may cancel before every step.
        checkpoint: folder for the run's state, which stays there; default: one beside the
            network, which is removed at the end.

    Raises:
        InvalidHParams: the data cannot be read, or a suite edits its subjects.
        JeepError: no data, or a checkpoint of another run is in the way.
        Whatever ``monitor.check`` raises: the checkpoint stays; the same call continues from there.
    """
    if data is None and base.name not in atlas.MODELS:
        raise JeepError(f"training for {base.name!r} needs data: a file in a format of suites")
    cases: Sequence[Fact] = atlas_cases(settings.seed)
    if data:
        cases = load_training_suite(data, base.name).cases
    triples, _ = triples_of(base.tokenizer, cases, base.max_positions)
    path = network_path(folder, base, editor)
    state = checkpoint or path.with_suffix(".training")
    spec = spec_of(base, editor, hparams)
    training = Training(base, spec, triples, settings, state, monitor)
    with giving_way(training.view, monitor):
        network = training.run()
    source = {"data": data.name if data else "bundled", "data_sha256": data and data_hash(data)}
    save_network(network, path, {**training.record(), **source})
    if checkpoint is None:
        shutil.rmtree(state)
    return path


def chosen_hparams(
    base: LoadedModel,
    editor: str,
    layers: list[int] | None,
    rank: int | None,
    blocks: int | None,
) -> HypernetworkHParams:
    """The model's preset, else the paper's last layers, with the given values laid over them.

    Raises:
        InvalidHParams: layers that do not exist, ranks below 1.
    """
    given = {"layers": layers, "rank": rank, "n_blocks": blocks}
    changes = {name: value for name, value in given.items() if value is not None}
    cls = hparams_class(editor)
    assert issubclass(cls, HypernetworkHParams)
    known = presets_for(base.name, shape=base.shape)
    if not any(preset.editor == editor for preset in known):
        changes = {"layers": cls.last_layers(base.n_layers), **changes}
    hparams = resolve_hparams(base.name, editor, None, changes, base.n_layers, shape=base.shape)
    assert isinstance(hparams, HypernetworkHParams)
    return hparams


def run(
    *,
    editor: str,
    model: str,
    folder: Path,
    data: Path | None = None,
    layers: list[int] | None = None,
    rank: int | None = None,
    blocks: int | None = None,
    device: str = "auto",
    dtype: str = "auto",
    models_dir: Path | None = None,
    **settings: Any,
) -> None:
    """Train a network, and print how far it is and where it lies.

    Args:
        editor: name of an editor with a trained network.
        model: bundled name, local folder, GGUF file, hub id, or a name of ``models_dir``.
        folder: for networks of any model.
        data: a suite's file; None: the bundled training split of a bundled model.
        layers: which layers it edits; None: those of the preset.
        rank: of its matrices; None: that of the preset.
        blocks: how many it has; None: as the preset.
        device: ``auto``, ``cpu``, ``cuda``, …
        dtype: ``auto`` or the model's.
        models_dir: the model directory; None: there is none.
        settings: fields of `TrainingSettings`.

    Raises:
        WrongArgument: an editor without a network.
        JeepError: no data, or what `train_network` and `chosen_hparams` refuse.
        OSError: a file cannot be read or written.
    """
    if editor not in with_network():
        known = " or ".join(sorted(with_network()))
        raise WrongArgument(f"EDITOR: {editor!r} has no network to train: write {known}")
    try:
        base = load(model, device, dtype, models_dir)
        hparams = chosen_hparams(base, editor, layers, rank, blocks)
        if data:
            _say_lost(data, load_training_suite(data, base.name).report)
        chosen = TrainingSettings(**settings)
        path = train_network(base, editor, hparams, chosen, folder, data, Monitor(_say))
    except (KeyError, ValueError) as error:
        raise JeepError(repr(error)) from error
    print(f"jeep: {path}: {path.stat().st_size:,} bytes")


def _say(phase: str, done: int, total: int) -> None:
    if done % 10 == 0 or done == total:
        print(f"jeep: {phase} {done}/{total}", flush=True)


def _say_lost(data: Path, report: Report) -> None:
    """Print how much of a file is trained on, and how much is not, by reason."""
    lost = (*report.dropped.items(), *report.left_out.items())
    reasons = ", ".join(f"{count} {reason}" for reason, count in lost) or "nothing lost"
    print(
        f"jeep: {data.name}: {report.kept} of {counted(report.records, 'record')} ({reasons})",
        flush=True,
    )
