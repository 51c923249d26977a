"""Where trained networks are: ``<folder>/<model hash>/<editor>.safetensors`` and ``.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from jeep_core import atlas
from jeep_core.errors import FieldProblem, InvalidHParams, JeepError
from jeep_core.families import is_transposed
from jeep_core.files import write_atomically
from jeep_core.hparams_gradient import HypernetworkHParams
from jeep_core.hypernetworks.malmen import MalmenNetwork
from jeep_core.hypernetworks.mend import MendNetwork
from jeep_core.hypernetworks.network import Hypernetwork, NetworkSpec
from jeep_core.loading import LoadedModel

FORMAT = 1
NETWORKS: Mapping[str, type[MendNetwork] | type[MalmenNetwork]] = {
    "mend": MendNetwork,
    "malmen": MalmenNetwork,
}


def spec_of(base: LoadedModel, editor: str, hparams: HypernetworkHParams) -> NetworkSpec:
    """The network that an editor needs for this model and these hyper-parameters."""
    sizes = []
    for layer in hparams.layers:
        rows, columns = base.model.get_parameter(base.family.weight_name(layer)).shape
        transposed = is_transposed(base.family.mlp_out_of(base.model, layer))
        sizes.append((columns, rows) if transposed else (rows, columns))
    return NetworkSpec(editor, hparams.layers, hparams.rank, hparams.n_blocks, tuple(sizes))


def create_network(spec: NetworkSpec, seed: int = 0) -> Hypernetwork:
    """An untrained network."""
    return NETWORKS[spec.editor](spec, seed)


def spec_record(spec: NetworkSpec) -> dict[str, Any]:
    """A specification as JSON."""
    return {
        "editor": spec.editor,
        "layers": list(spec.layers),
        "rank": spec.rank,
        "n_blocks": spec.n_blocks,
        "sizes": [list(size) for size in spec.sizes],
    }


def network_path(folder: Path, base: LoadedModel, editor: str) -> Path:
    """Where a trained network of this base model belongs."""
    return folder / base.model_hash[:32] / f"{editor}.safetensors"


def save_network(network: Hypernetwork, path: Path, record: Mapping[str, Any]) -> None:
    """Write matrices in float16, vectors in float32, and ``record`` beside them.

    Both files are replaced atomically, the weights last.
    """
    tensors = {
        name: (tensor.half() if tensor.dim() > 1 else tensor).detach().cpu().contiguous()
        for name, tensor in network.state_dict().items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = {"format": FORMAT, "network": spec_record(network.spec), **record}
    write_atomically(path.with_suffix(".json"), json.dumps(whole, indent=1) + "\n")
    partial = path.with_suffix(".partial")
    save_file(tensors, partial)
    partial.replace(path)


def load_network(
    base: LoadedModel, editor: str, hparams: HypernetworkHParams, folder: Path | None
) -> Hypernetwork:
    """The trained network for these hyper-parameters: from ``folder``, else the shipped one.

    Raises:
        InvalidHParams: there is none, or it was trained for other hyper-parameters.
        JeepError: its files cannot be read.
    """
    spec = spec_of(base, editor, hparams)
    found = []
    for path in _candidates(base, editor, folder):
        if not path.exists():
            continue
        record = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        if record["network"] == spec_record(spec) and record["format"] == FORMAT:
            network = create_network(spec)
            tensors = {name: tensor.float() for name, tensor in load_file(path).items()}
            try:
                network.load_state_dict(tensors)
            except RuntimeError as error:
                raise JeepError(f"{path} is not a network for {editor}: {error}") from error
            return network.to(base.device).requires_grad_(False)
        found.append(record["network"])
    raise InvalidHParams([_missing(base, spec, found)])


def _candidates(base: LoadedModel, editor: str, folder: Path | None) -> list[Path]:
    paths = [network_path(folder, base, editor)] if folder else []
    if base.name in atlas.MODELS:
        paths.append(atlas.MODELS[base.name] / "hypernetworks" / f"{editor}.safetensors")
    return paths


def _missing(base: LoadedModel, spec: NetworkSpec, found: list[dict[str, Any]]) -> FieldProblem:
    layers = " ".join(map(str, spec.layers))
    wanted = f"layers {layers}, rank {spec.rank}, {spec.n_blocks} blocks"
    command = (
        f"jeep train-hypernetwork {spec.editor} {base.name} --layers {layers.replace(' ', ',')} "
        f"--rank {spec.rank} --blocks {spec.n_blocks}"
    )
    if base.name not in atlas.MODELS:
        command += " --data CASES.json"
    have = "; the one there is for " + ", ".join(
        f"layers {' '.join(map(str, f['layers']))}, rank {f['rank']}, {f['n_blocks']} blocks"
        for f in found
    )
    message = (
        f"{spec.editor} needs a network trained for this model ({wanted})"
        f"{have if found else ', and there is none'}; make one with: {command}"
    )
    return FieldProblem("/editor", "no_hypernetwork", message)


def adam_tensors(optimizer: torch.optim.Adam) -> dict[str, torch.Tensor]:
    """An optimiser's state as named tensors."""
    return {
        f"adam.{index}.{name}": tensor
        for index, state in optimizer.state_dict()["state"].items()
        for name, tensor in state.items()
    }


def restore_adam(optimizer: torch.optim.Adam, tensors: Mapping[str, torch.Tensor]) -> None:
    """The inverse of ``adam_tensors``."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        kind, _, rest = key.partition(".")
        if kind == "adam":
            index, _, name = rest.partition(".")
            state.setdefault(int(index), {})[name] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
