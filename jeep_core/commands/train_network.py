"""Train a network for MEND or MALMEN: ``python -m jeep_core.commands.train_network mend MODEL``.

The bundled models are trained on counterfactuals about subjects that no suite edits; every
other model needs ``--data``, a file in any format of suites whose facts are not those
to be edited later.  A run that was interrupted continues from its last checkpoint and ends
with the same network.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path

from jeep_core import atlas
from jeep_core.commands import MODEL_HELP, MODELS_DIR_HELP
from jeep_core.edit import resolve_hparams
from jeep_core.editors import hparams_class
from jeep_core.editors.networks.storage import NETWORKS, network_path, save_network, spec_of
from jeep_core.editors.networks.training import Training, TrainingSettings
from jeep_core.editors.networks.triples import atlas_cases, triples_of
from jeep_core.errors import JeepError
from jeep_core.models.loading import DTYPES, LoadedModel, load
from jeep_core.models.pauses import Pause, pausing
from jeep_core.spec.facts import Fact
from jeep_core.spec.gradient_hparams import HypernetworkHParams, last_layers
from jeep_core.spec.hparams import validate_hparams
from jeep_core.suites import Report
from jeep_core.suites.training_data import data_hash, load_training_suite
from jeep_core.values.optimiser import Progress


def train_network(
    base: LoadedModel,
    editor: str,
    hparams: HypernetworkHParams,
    settings: TrainingSettings,
    folder: Path,
    data: Path | None = None,
    progress: Progress | None = None,
    should_stop: Callable[[], bool] | None = None,
    pause: Pause | None = None,
    checkpoint: Path | None = None,
) -> Path:
    """Train to the end and write the network into ``folder``.

    Args:
        base: the model.
        editor: ``mend`` or ``malmen``.
        hparams: the network's layers, rank and blocks.
        settings: of the training.
        folder: for networks of any model.
        data: a suite's file; None: the bundled training split of a bundled model.
        progress: called with ("train", steps taken, all steps).
        should_stop: called before every step; True cancels.
        pause: called before every matrix of every block, forward and backward; may block.
        checkpoint: folder for the run's state, which stays there; default: one beside the
            network, which is removed at the end.

    Raises:
        InvalidHParams: the data cannot be read, or a suite edits its subjects.
        JeepError: no data, or a checkpoint of another run is in the way.
        Cancelled: the checkpoint stays; the same call continues from there.
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
    training = Training(base, spec, triples, settings, state, progress, should_stop)
    with pausing(training.view, pause):
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
    if base.name not in atlas.MODELS:
        changes = {"layers": last_layers(editor, base.n_layers), **changes}
        hparams = validate_hparams(hparams_class(editor), changes, base.n_layers)
    else:
        hparams = resolve_hparams(base.name, editor, None, changes, base.n_layers)
    assert isinstance(hparams, HypernetworkHParams)
    return hparams


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="jeep train-hypernetwork", description=__doc__)
    parser.add_argument("editor", choices=sorted(NETWORKS))
    parser.add_argument("model", help=MODEL_HELP)
    parser.add_argument("--models-dir", type=Path, help=MODELS_DIR_HELP)
    parser.add_argument("--data", type=Path, help="file in any format of suites to train on")
    parser.add_argument("--store", type=Path, default=Path("jeep-store"), help="the service's")
    parser.add_argument("--out", type=Path, help="folder instead of the store's")
    parser.add_argument("--layers", type=lambda text: [int(n) for n in text.split(",")])
    parser.add_argument("--rank", type=int)
    parser.add_argument("--blocks", type=int)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto", choices=("auto", *DTYPES))
    for field in fields(TrainingSettings):
        flag = "--" + field.name.replace("_", "-")
        parser.add_argument(flag, type=type(field.default), default=field.default)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    args = _parser().parse_args(arguments)
    settings = TrainingSettings(**{f.name: getattr(args, f.name) for f in fields(TrainingSettings)})
    folder = args.out or args.store / "base" / "hypernetworks"
    try:
        base = load(args.model, args.device, args.dtype, args.models_dir)
        hparams = chosen_hparams(base, args.editor, args.layers, args.rank, args.blocks)
        if args.data:
            _say_lost(args.data, load_training_suite(args.data, base.name).report)
        path = train_network(base, args.editor, hparams, settings, folder, args.data, _say)
    except (JeepError, OSError, KeyError, ValueError) as error:
        said = str(error) if isinstance(error, (JeepError, OSError)) else repr(error)
        print(f"jeep: {said}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("jeep: interrupted; the same command goes on from the checkpoint", file=sys.stderr)
        return 130
    print(f"jeep: {path}: {path.stat().st_size:,} bytes")
    return 0


def _say(phase: str, done: int, total: int) -> None:
    if done % 10 == 0 or done == total:
        print(f"jeep: {phase} {done}/{total}", flush=True)


def _say_lost(data: Path, report: Report) -> None:
    """Print how much of a file is trained on, and how much is not, by reason."""
    lost = (*report.dropped.items(), *report.left_out.items())
    reasons = ", ".join(f"{count} {reason}" for reason, count in lost) or "nothing lost"
    print(f"jeep: {data.name}: {report.kept} of {report.records} records ({reasons})", flush=True)


if __name__ == "__main__":
    sys.exit(main())
