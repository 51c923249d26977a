"""Train a network for MEND or MALMEN: ``python -m jeep_core.train_hypernetwork mend MODEL``.

The bundled models are trained on counterfactuals about subjects that no suite edits; every
other model needs ``--data``, a JSON list in Multi-CounterFact format whose facts are not those
to be edited later.  A run that was interrupted goes on where its last checkpoint is and ends
with the same network.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from jeep_core import atlas
from jeep_core.editing import resolve_hparams
from jeep_core.editors import hparams_class
from jeep_core.errors import JeepError
from jeep_core.evaluation.suites import load_counterfact
from jeep_core.hparams import validate_hparams
from jeep_core.hparams_gradient import HypernetworkHParams
from jeep_core.hypernetworks.storage import NETWORKS, network_path, save_network, spec_of
from jeep_core.hypernetworks.training import Training, TrainingSettings
from jeep_core.hypernetworks.triples import atlas_cases, triples_of
from jeep_core.loading import DTYPES, LoadedModel, load
from jeep_core.values import Progress

LAST_LAYERS = {"mend": 3, "malmen": 6}


def train_network(
    base: LoadedModel,
    editor: str,
    hparams: HypernetworkHParams,
    settings: TrainingSettings,
    folder: Path,
    data: Path | None = None,
    progress: Progress | None = None,
    **control: Any,
) -> Path:
    """Train to the end, write the network into ``folder``, remove the checkpoint.

    ``control`` may hold ``should_stop``.

    Raises:
        JeepError: no data, or a checkpoint of another run is in the way.
        Cancelled: the checkpoint stays; the same call goes on from there.
    """
    if data is None and base.name not in atlas.MODELS:
        raise JeepError(f"training for {base.name!r} needs data: a Multi-CounterFact file")
    cases = load_counterfact(data).cases if data else atlas_cases(settings.seed)
    triples, _ = triples_of(base.tokenizer, cases, base.max_positions)
    path = network_path(folder, base, editor)
    checkpoint = path.with_suffix(".training")
    spec = spec_of(base, editor, hparams)
    training = Training(base, spec, triples, settings, checkpoint, progress, **control)
    network = training.run()
    save_network(network, path, {**training.record(), "data": str(data) if data else "bundled"})
    shutil.rmtree(checkpoint)
    return path


def chosen_hparams(
    base: LoadedModel,
    editor: str,
    layers: list[int] | None,
    rank: int | None,
    blocks: int | None,
) -> HypernetworkHParams:
    """The model's preset, else the paper's last layers, with what is given laid over.

    Raises:
        InvalidHParams: layers that do not exist, ranks below 1.
    """
    given = {"layers": layers, "rank": rank, "n_blocks": blocks}
    changes = {name: value for name, value in given.items() if value is not None}
    if base.name not in atlas.MODELS:
        first = max(base.n_layers - LAST_LAYERS[editor], 0)
        changes = {"layers": list(range(first, base.n_layers)), **changes}
        hparams = validate_hparams(hparams_class(editor), changes, base.n_layers)
    else:
        hparams = resolve_hparams(base.name, editor, None, changes, base.n_layers)
    assert isinstance(hparams, HypernetworkHParams)
    return hparams


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="jeep train-hypernetwork", description=__doc__)
    parser.add_argument("editor", choices=sorted(NETWORKS))
    parser.add_argument("model", help="bundled name, local folder or hub id")
    parser.add_argument("--data", type=Path, help="Multi-CounterFact file to train on")
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
        base = load(args.model, args.device, args.dtype)
        hparams = chosen_hparams(base, args.editor, args.layers, args.rank, args.blocks)
        path = train_network(base, args.editor, hparams, settings, folder, args.data, _say)
    except (JeepError, OSError, KeyError, ValueError) as error:
        print(f"jeep: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("jeep: interrupted; the same command goes on from the checkpoint", file=sys.stderr)
        return 130
    print(f"jeep: {path}: {path.stat().st_size:,} bytes")
    return 0


def _say(phase: str, done: int, total: int) -> None:
    if done % 10 == 0 or done == total:
        print(f"jeep: {phase} {done}/{total}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
