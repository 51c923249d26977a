"""The changed matrices in one file."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from jeep_core.exports.bases import BaseName
from jeep_core.models.loading import tensor_sha256
from jeep_core.models.views import ModelView
from service.contracts.schemas.exports import SafetensorsExport
from service.worker.exports.asking import check
from service.worker.exports.writing import Evidence, Version, Writer, Written

FILE = "changed.safetensors"
_HEADER = 2**20


def needed(version: Version, options: SafetensorsExport) -> int:
    """The changed matrices, and a header."""
    return _HEADER + sum(tensor.nbytes for tensor in version.view.replaced.values())


def write(version: Version, options: SafetensorsExport, folder: Path) -> Written:
    """Write the matrices as they are in the version."""
    base = version.base_name
    tensors = {name: t.cpu().contiguous() for name, t in version.view.replaced.items()}
    metadata = {
        "format": "pt",
        "version": version.manifest.id,
        "weights_sha256": version.manifest.weights_sha256,
        "base_model_hash": version.base.model_hash,
        "base_model": base.text,
    }
    save_file(tensors, folder / FILE, metadata)
    return Written(
        use=_use(base),
        library="transformers",
        said="The file holds the matrices in which it differs from the base model.",
        details={"tensors": len(tensors)},
    )


def _use(base: BaseName) -> str:
    """How a program loads the matrices."""
    return f"""\
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

{base.comment}model = AutoModelForCausalLM.from_pretrained("{base.loaded_by}")
model.load_state_dict(load_file("FOLDER/{FILE}"), strict=False)"""


def prove(version: Version, options: SafetensorsExport, folder: Path) -> Evidence:
    """Compare each matrix with the version's own hash."""
    wanted = {ref.name: ref.sha256 for ref in version.manifest.tensors}
    found: dict[str, torch.Tensor] = load_file(folder / FILE)
    other = [n for n in {*wanted, *found} if n not in found or tensor_sha256(found[n]) != wanted[n]]
    said = "matrices that differ from those of the version"
    view = ModelView(version.base, found)
    return Evidence(view=view, checks=[check("matrices", said, len(other), 0)])


WRITER = Writer(needed, write, prove)
