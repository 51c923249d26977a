"""A version of a loaded model as a GGUF file, whichever way the model came."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from jeep_core.exports.checkpoint import checkpoint_bytes, folder_of, write_checkpoint
from jeep_core.exports.gguf.convert import (
    Made,
    check_makeable,
    check_types,
    from_folder,
    from_source,
)
from jeep_core.exports.gguf.tools import LlamaCpp
from jeep_core.exports.gguf.types import EditedType, GgufType
from jeep_core.models.library import gguf_source_of
from jeep_core.models.loading import LoadedModel
from jeep_core.monitor import NOTHING, Monitor


def source_of(base: LoadedModel) -> Path | None:
    """The GGUF file that a model came from, if it is still there unchanged."""
    return None if base.folder is None else gguf_source_of(base.folder)


def type_of(base: LoadedModel, wanted: str | None = None) -> GgufType:
    """The type that is asked for; without one that of the model's source, else F16."""
    if wanted is not None:
        return GgufType(wanted)
    return GgufType.F16 if source_of(base) is None else GgufType.SOURCE


def bytes_needed(base: LoadedModel, replaced: Mapping[str, torch.Tensor], kind: GgufType) -> int:
    """Bytes on the disk while a file is made, at most.

    Two files at once, and a model folder where the model came as one.  ``replaced``: the version's
    matrices, (rows, columns), by name.

    Raises:
        NotExportable: the model has no files of its own.
    """
    source = source_of(base)
    if source is None:
        return 3 * checkpoint_bytes(folder_of(base), "float32")
    edited = sum(4 * tensor.numel() for tensor in replaced.values())
    files = 1 if kind is GgufType.SOURCE else 2
    return files * source.stat().st_size + 2 * edited


def write_version(
    out: Path,
    base: LoadedModel,
    replaced: Mapping[str, torch.Tensor],
    kind: GgufType,
    edited: EditedType,
    tools: LlamaCpp,
    scratch: Path,
    monitor: Monitor = NOTHING,
) -> Made:
    """Write a version, from the GGUF file that its model came from or from a folder of it.

    ``replaced``: the version's matrices, (rows, columns), by name.  ``scratch`` is a folder for
    what is written on the way.

    Raises:
        MissingProgram: a program of llama.cpp is needed and was not found.
        NotExportable: the version cannot be stored so; says why.
        OSError: there is no room.
        Whatever ``monitor.check`` raises.
    """
    source = source_of(base)
    check_types(kind, edited)
    check_makeable(kind, tools, has_source=source is not None)
    if source is None:
        whole = scratch / "folder"
        whole.mkdir()
        write_checkpoint(whole, base, replaced, None, monitor)
        return from_folder(out, whole, list(replaced), kind, edited, tools, scratch, monitor)
    values = {name: tensor.detach().float().cpu().numpy() for name, tensor in replaced.items()}
    return from_source(out, source, values, kind, edited, tools, scratch, monitor)
