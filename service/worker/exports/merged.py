"""A whole model folder, as the base model's."""

from __future__ import annotations

import gc
from collections import Counter
from pathlib import Path

import psutil
import torch

from jeep_core.exports.checkpoint import checkpoint_bytes, folder_of, write_checkpoint
from jeep_core.exports.tensor_files import FLOATS
from jeep_core.models.checkpoints.files import read_headers
from jeep_core.models.loading import DTYPES, LoadedModel, load
from jeep_core.models.views import ModelView
from service.contracts.schemas.exports import Check, MergedExport
from service.worker.exports.asking import check
from service.worker.exports.writing import Evidence, Version, Writer, Written

USE = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("FOLDER", dtype="auto")
tokenizer = AutoTokenizer.from_pretrained("FOLDER")"""
_SPARE = 2**29
"""Bytes of memory that are left to others when the folder is loaded to be asked."""


def needed(version: Version, options: MergedExport) -> int:
    """The base model's files in the wanted type."""
    return checkpoint_bytes(folder_of(version.base), options.dtype)


def write(version: Version, options: MergedExport, folder: Path) -> Written:
    """Copy the base model's files, a few megabytes at a time, with the version's matrices."""
    changed = version.view.replaced
    hashes = write_checkpoint(folder, version.base, changed, options.dtype, version.monitor)
    return Written(
        use=USE,
        library="transformers",
        said="The folder is a whole model; transformers, vLLM and converters load it.",
        details={"tensors_changed": len(changed), "dtype": options.dtype or "as the base's files"},
        hashes=hashes,
    )


def prove(version: Version, options: MergedExport, folder: Path) -> Evidence:
    """Load the folder as others do, and compare it with the version."""
    size = checkpoint_bytes(folder)
    free = _free_memory(version.base)
    if size + _SPARE > free:
        why = (
            f"the folder takes {size / 2**20:,.0f} MB of memory to be asked, and "
            f"{max(0, free - _SPARE) / 2**20:,.0f} can be had now: load it elsewhere and ask there"
        )
        return Evidence(not_asked=why)
    gc.collect()
    loaded = load(str(folder), str(version.base.layout), _stored_dtype(folder))
    return Evidence(view=ModelView(loaded), checks=[_compared(version, loaded)])


def _compared(version: Version, loaded: LoadedModel) -> Check:
    """The largest difference of a weight from the version's, none at all in the same type."""
    same_type = loaded.dtype == version.base.dtype
    if same_type and loaded.weights_sha256 == version.manifest.weights_sha256:
        return check("weights", "weights that differ from the version's", 0, 0)
    # the coarser type has rounded one of the two
    coarse = max(torch.finfo(model.dtype).eps for model in (loaded, version.base))
    limit = 0.0 if same_type else float(coarse)
    worst = 0.0
    for name, tensor in loaded.model.named_parameters():
        version.monitor.check()
        there = version.view.parameter(name).to(tensor.device)
        largest = float(there.abs().max())
        off = float((tensor.double() - there.double()).abs().max())
        worst = max(worst, off / largest if largest else off)
    said = "largest difference of a weight from the version's, as a part of its matrix's largest"
    return check("weights", said, worst, limit)


def _stored_dtype(folder: Path) -> str:
    """The type in which most of a folder's numbers are stored."""
    counts = dict.fromkeys(FLOATS, 0)
    for tensor in read_headers(folder).values():
        if tensor.dtype in counts:
            counts[tensor.dtype] += int(torch.Size(tensor.shape).numel())
    most = FLOATS[max(counts, key=lambda name: counts[name])]
    return next((name for name, dtype in DTYPES.items() if dtype == most), "float32")


def _free_memory(base: LoadedModel) -> int:
    """Bytes that a second model may take where the first one is, laid out as it is."""
    held = Counter[str]()
    for parameter in base.model.parameters():
        held[str(parameter.device)] += parameter.nbytes
    whole = sum(held.values())
    return min(_free_on(torch.device(name)) * whole // size for name, size in held.items())


def _free_on(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


WRITER = Writer(needed, write, prove)
