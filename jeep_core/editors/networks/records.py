"""Which trained networks there are, from the JSON records beside them; needs no torch.

A network is ``<folder>/<model hash>/<editor>.safetensors``; its record has the same name with
``.json``.  Bundled models have shipped ones, which a network in the folder takes the place of
where it fits the hyper-parameters.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jeep_core import atlas
from jeep_core.editors import with_network
from jeep_core.editors.networks.hparams import HypernetworkHParams
from jeep_core.errors import FieldProblem, JeepError, is_no_damage
from jeep_core.storage.records import unsealed

FORMAT = 2


@dataclass(frozen=True)
class NetworkRecord:
    """A trained network: its file, what it was trained for, and the rest of its record.

    ``network``: editor, layers, rank, n_blocks and the sizes of the matrices.
    """

    path: Path
    shipped: bool
    network: Mapping[str, Any]
    sha256: str
    training: Mapping[str, Any]

    @property
    def editor(self) -> str:
        """The editor it is for."""
        return str(self.network["editor"])

    def fits(self, hparams: HypernetworkHParams) -> bool:
        """Whether it was trained for these hyper-parameters."""
        n = self.network
        mine = tuple(n["layers"]), n["rank"], n["n_blocks"]
        return mine == (hparams.layers, hparams.rank, hparams.n_blocks)

    @property
    def shape(self) -> str:
        """The hyper-parameters that it fits, as text."""
        return _shape(self.network["layers"], self.network["rank"], self.network["n_blocks"])


def network_file(folder: Path, model_hash: str, editor: str) -> Path:
    """Where a trained network of this base model belongs."""
    return folder / model_hash[:32] / f"{editor}.safetensors"


def network_records(model: str, model_hash: str, folder: Path | None) -> list[NetworkRecord]:
    """The networks of a model, in the order in which they are looked at: own, then shipped.

    Raises:
        JeepError: a record cannot be read.
    """
    editors = with_network()
    own = [network_file(folder, model_hash, editor) for editor in editors] if folder else []
    shipped = []
    if model in atlas.MODELS:
        places = atlas.MODELS[model] / "hypernetworks"
        shipped = [places / f"{editor}.safetensors" for editor in editors]
    found = [read_record(path, path in shipped) for path in (*own, *shipped)]
    return [record for record in found if record is not None]


def read_record(path: Path, shipped: bool = False) -> NetworkRecord | None:
    """The record of the network at ``path``; None if there is none, or of an older format.

    Raises:
        JeepError: it is no record.
        OSError: it cannot be read now.
    """
    try:
        whole = json.loads(unsealed(path.with_suffix(".json").read_bytes().rstrip()))
        if whole.pop("format") != FORMAT:
            return None
        network, sha256 = whole.pop("network"), whole.pop("sha256")
        return NetworkRecord(path, shipped, network, sha256, whole)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if is_no_damage(error):
            raise
        raise JeepError(f"{path.with_suffix('.json')} is no record of a network") from error


def missing_network(
    model: str, editor: str, hparams: HypernetworkHParams, records: Sequence[NetworkRecord]
) -> FieldProblem:
    """The error that no network fits, with those there are and the command that makes one."""
    layers = ",".join(map(str, hparams.layers))
    command = (
        f"jeep networks train {editor} {model} --layers {layers} "
        f"--rank {hparams.rank} --blocks {hparams.n_blocks}"
    )
    if model not in atlas.MODELS:
        command += " --data CASES.json"
    there = [record.shape for record in records if record.editor == editor]
    have = f"; the one there is for {', '.join(there)}" if there else ", and there is none"
    message = (
        f"{editor} needs a network trained for this model "
        f"({_shape(hparams.layers, hparams.rank, hparams.n_blocks)}){have}; "
        f"make one with: {command}"
    )
    return FieldProblem("/editor", "no_hypernetwork", message)


def _shape(layers: Sequence[int], rank: int, n_blocks: int) -> str:
    return f"layers {' '.join(map(str, layers))}, rank {rank}, {n_blocks} blocks"
