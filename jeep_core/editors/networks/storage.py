"""Trained networks as files, and the optimiser's state in checkpoints."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save

from jeep_core.editors import network_class
from jeep_core.editors.networks.hparams import HypernetworkHParams
from jeep_core.editors.networks.network import Hypernetwork, NetworkSpec
from jeep_core.editors.networks.records import (
    FORMAT,
    missing_network,
    network_file,
    network_records,
)
from jeep_core.errors import InvalidHParams, JeepError, is_passing
from jeep_core.models.families import is_transposed
from jeep_core.models.loading import LoadedModel
from jeep_core.spec.finite import json_text
from jeep_core.storage.records import sealed
from jeep_core.storage.writing import write_atomically

READS, BETWEEN_READS_S = 10, 0.05


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
    return network_class(spec.editor)(spec, seed)


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
    return network_file(folder, base.model_hash, editor)


def save_network(network: Hypernetwork, path: Path, record: Mapping[str, Any]) -> None:
    """Write matrices in float16, vectors in float32, and ``record`` beside them.

    Both files are replaced atomically, the weights last; the record names their hash.
    """
    tensors = {
        name: (tensor.half() if tensor.dim() > 1 else tensor).detach().cpu().contiguous()
        for name, tensor in network.state_dict().items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    data = save(tensors)
    head = {"format": FORMAT, "network": spec_record(network.spec), "sha256": _sha256(data)}
    text = json_text({**head, **record}, str(path), indent=1)
    write_atomically(path.with_suffix(".json"), sealed(text.encode()))
    write_atomically(path, data)


def load_network(
    base: LoadedModel, editor: str, hparams: HypernetworkHParams, folder: Path | None
) -> Hypernetwork:
    """The trained network for these hyper-parameters: from ``folder``, else the shipped one.

    Raises:
        InvalidHParams: there is none, or it was trained for other hyper-parameters.
        JeepError: its files cannot be read.
    """
    for _ in range(READS):
        records = network_records(base.name, base.model_hash, folder)
        fitting = [r for r in records if r.editor == editor and r.fits(hparams)]
        if not fitting:
            raise InvalidHParams([missing_network(base.name, editor, hparams, records)])
        path = fitting[0].path
        data = path.read_bytes()
        if _sha256(data) == fitting[0].sha256:
            network = _network_of(base, spec_of(base, editor, hparams), data, path)
            network.sha256 = fitting[0].sha256
            return network
        time.sleep(BETWEEN_READS_S)  # it may be replaced at this moment
    raise JeepError(f"{path} is not the network that its record describes")


def _network_of(base: LoadedModel, spec: NetworkSpec, data: bytes, path: Path) -> Hypernetwork:
    network = create_network(spec)
    try:
        network.load_state_dict({name: tensor.float() for name, tensor in load(data).items()})
    except RuntimeError as error:
        if is_passing(error):
            raise
        raise JeepError(f"{path} is not a network for {spec.editor}: {error}") from error
    return network.to(base.device).requires_grad_(False)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def adam_tensors(optimizer: torch.optim.Adam) -> dict[str, torch.Tensor]:
    """An optimiser's state as named tensors, each in the shape of its parameter or a scalar."""
    return {
        f"adam.{index}.{name}": tensor
        for index, state in optimizer.state_dict()["state"].items()
        for name, tensor in state.items()
    }


def restore_adam(optimizer: torch.optim.Adam, tensors: Mapping[str, torch.Tensor]) -> None:
    """The inverse of ``adam_tensors``: each in the shape of its parameter or a scalar."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        kind, _, rest = key.partition(".")
        if kind == "adam":
            index, _, name = rest.partition(".")
            state.setdefault(int(index), {})[name] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
